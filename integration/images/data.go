package images

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"math/rand/v2"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// dataFiles are the files of DebianData's layer. Sizes are in bytes.
var dataFiles = []struct {
	path string
	size int64
}{
	{"data/4KiB", 4 << 10},
	{"data/1MiB", 1 << 20},
	{"data/64MiB", 64 << 20},
	{"data/1GiB", 1 << 30},
}

// dataSeed makes the same bytes everywhere.
var dataSeed = [32]byte([]byte("peregrine falcons dive at 320kmh"))

// DebianData returns docker.io/peregrine/debian-data:bookworm: Debian and one
// layer more, with the files /data/4KiB, /data/1MiB, /data/64MiB and /data/1GiB,
// whose bytes are random and the same at every build. It builds Debian first if
// that isn't in the cache.
func DebianData(ctx context.Context, cache string, progress Progress) (Image, error) {
	debian, err := Debian(ctx, cache, progress)
	if err != nil {
		return Image{}, err
	}
	return recipe{
		name: "docker.io/peregrine/debian-data:bookworm",
		from: fmt.Sprintf("%s\n%v\n%s", debian.Digest, dataFiles, dataSeed),
		build: func(ctx context.Context, s *site) (v1.Image, error) {
			base, err := openArchive(debian.Archive)
			if err != nil {
				return nil, err
			}
			s.scratch = append(s.scratch, base)
			below, err := base.image.Layers()
			if err != nil {
				return nil, fmt.Errorf("read the layers of %s: %w", debian.Name, err)
			}
			var total int64
			for _, file := range dataFiles {
				total += file.size
			}
			layer, err := s.layer(ctx, "making random data", total, writeData)
			if err != nil {
				return nil, err
			}
			return assemble(v1.Config{Env: []string{path}, Cmd: []string{"bash"}}, append(below, layer)...)
		},
	}.cached(ctx, cache, progress)
}

// writeData writes the tar of the data layer.
func writeData(w io.Writer) error {
	random := rand.NewChaCha8(dataSeed)
	out := tar.NewWriter(w)
	dir := &tar.Header{
		Name: "data/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: created, Format: tar.FormatPAX,
	}
	if err := out.WriteHeader(dir); err != nil {
		return fmt.Errorf("write the header of %s: %w", dir.Name, err)
	}
	for _, file := range dataFiles {
		header := &tar.Header{
			Name: file.path, Typeflag: tar.TypeReg, Mode: 0o644, Size: file.size,
			ModTime: created, Format: tar.FormatPAX,
		}
		err := out.WriteHeader(header)
		if err == nil {
			_, err = io.CopyN(out, random, file.size)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", file.path, err)
		}
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("end the layer: %w", err)
	}
	return nil
}
