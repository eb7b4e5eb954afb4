// Package images builds the container images that the tests, the demo and the
// benchmarks run, and serves them from a registry on loopback.
//
// An image is kept in a cache directory as one tar archive that holds an OCI
// image layout, as `ctr image import` reads it. Its layers are not compressed:
// what an import or a pull takes is then the unpacking, not gunzip. The name of
// the archive carries a hash of what the image is built from, so that another
// recipe, another busybox or another Debian makes another archive; old ones stay
// until somebody deletes them. Times of files are fixed: the same inputs give the
// same digests.
//
// Any number of goroutines and processes may ask for the same image at the same
// time; one builds and the rest wait for it. An archive appears under its name
// only when it is whole. The build directory of Debian is a tmpfs of a mount
// namespace that dies with the process. What a kill -9 can leave is one
// CACHE/images/NAME.*.tmp, which the next build of that image removes.
package images

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Image is an image in the cache.
type Image struct {
	// Name is the full reference, such as docker.io/peregrine/busybox:latest.
	Name string
	// Archive is the path of a tar archive with an OCI image layout in it. It
	// belongs to the cache: read it, but don't change it.
	Archive string
	// Digest is that of the manifest, such as sha256:2c26....
	Digest string
}

// Progress is told what a build does: the name of the step, and, for a step that
// knows how much there is to do, how many of how many bytes are done. Total is 0
// for a step that doesn't know. It is called by one goroutine at a time, a few
// times a second at most while bytes flow, and must not block. A nil Progress is
// told nothing.
type Progress func(step string, done, total int64)

func (p Progress) tell(step string, done, total int64) {
	if p != nil {
		p(step, done, total)
	}
}

// created is the time of every file and image made here, but not of the files
// that come from Debian, whose own times are kept.
var created = time.Date(2024, time.January, 1, 0, 0, 0, 0, time.UTC)

// assemble makes an image for this machine's architecture. config gives what
// runs in it by default.
func assemble(config v1.Config, layers ...v1.Layer) (v1.Image, error) {
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	base, err := mutate.ConfigFile(base, &v1.ConfigFile{
		Created:      v1.Time{Time: created},
		Architecture: runtime.GOARCH,
		OS:           "linux",
		Config:       config,
		RootFS:       v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, fmt.Errorf("set the image's configuration: %w", err)
	}
	var adds []mutate.Addendum
	for _, layer := range layers {
		history := v1.History{Created: v1.Time{Time: created}, CreatedBy: "peregrine"}
		adds = append(adds, mutate.Addendum{Layer: layer, History: history})
	}
	image, err := mutate.Append(base, adds...)
	if err != nil {
		return nil, fmt.Errorf("put the layers together: %w", err)
	}
	return image, nil
}

// entry is a file of a layer that is small enough to be held in memory.
type entry struct {
	path   string // without a leading slash; a directory's ends in one
	kind   byte   // tar.TypeReg, TypeDir, TypeSymlink or TypeLink
	mode   int64  // permission, sticky and set-id bits
	body   string // the content of a file, the target of a link
	xattrs map[string]string
}

// writeEntries writes a layer's tar, owned by root, in the order given.
func writeEntries(w io.Writer, entries []entry) error {
	out := tar.NewWriter(w)
	for _, e := range entries {
		header := &tar.Header{
			Name: e.path, Typeflag: e.kind, Mode: e.mode,
			ModTime: created, Format: tar.FormatPAX,
		}
		switch e.kind {
		case tar.TypeReg:
			header.Size = int64(len(e.body))
		case tar.TypeSymlink, tar.TypeLink:
			header.Linkname = e.body
		}
		for name, value := range e.xattrs {
			if header.PAXRecords == nil {
				header.PAXRecords = map[string]string{}
			}
			header.PAXRecords["SCHILY.xattr."+name] = value
		}
		if err := out.WriteHeader(header); err != nil {
			return fmt.Errorf("write the header of %s: %w", e.path, err)
		}
		if e.kind == tar.TypeReg {
			if _, err := io.WriteString(out, e.body); err != nil {
				return fmt.Errorf("write %s: %w", e.path, err)
			}
		}
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("end the layer: %w", err)
	}
	return nil
}

// meter passes on what is written to it, tells progress, and fails once ctx is
// done. It is for one goroutine.
type meter struct {
	ctx      context.Context
	w        io.Writer
	progress Progress
	step     string
	done     int64 // bytes
	total    int64 // bytes, 0 if not known
	told     int64 // bytes when progress was told last
}

// tellEvery is how many bytes pass between two calls of a Progress.
const tellEvery = 32 << 20

func (m *meter) Write(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := m.w.Write(p)
	m.done += int64(n)
	if m.done-m.told >= tellEvery || (m.done == m.total && m.told != m.done) {
		m.told = m.done
		m.progress.tell(m.step, m.done, m.total)
	}
	return n, err
}
