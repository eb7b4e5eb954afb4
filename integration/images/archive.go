package images

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// blob is a piece of a file that is known by its digest. As a v1.Layer it is one
// that isn't compressed. It may be read by many at once, through ReadAt or
// Compressed.
type blob struct {
	*io.SectionReader
	digest v1.Hash
}

func (b blob) Digest() (v1.Hash, error)             { return b.digest, nil }
func (b blob) DiffID() (v1.Hash, error)             { return b.digest, nil }
func (b blob) Size() (int64, error)                 { return b.SectionReader.Size(), nil }
func (b blob) MediaType() (types.MediaType, error)  { return types.OCIUncompressedLayer, nil }
func (b blob) Uncompressed() (io.ReadCloser, error) { return b.Compressed() }

// Compressed gives a reader of its own, which is an io.ReaderAt as well.
func (b blob) Compressed() (io.ReadCloser, error) {
	return section{io.NewSectionReader(b.SectionReader, 0, b.SectionReader.Size())}, nil
}

type section struct{ *io.SectionReader }

func (section) Close() error { return nil }

// writeArchive writes image as an OCI image layout that names it.
func (s *site) writeArchive(ctx context.Context, w io.Writer, name string, image v1.Image) error {
	manifest, err := image.Manifest()
	if err != nil {
		return fmt.Errorf("make the manifest: %w", err)
	}
	digest, err := image.Digest()
	if err != nil {
		return fmt.Errorf("hash the manifest: %w", err)
	}
	rawManifest, err := image.RawManifest()
	if err != nil {
		return fmt.Errorf("make the manifest: %w", err)
	}
	desc := v1.Descriptor{
		MediaType: manifest.MediaType,
		Size:      int64(len(rawManifest)),
		Digest:    digest,
		Platform:  &v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Annotations: map[string]string{
			"io.containerd.image.name":          name,
			"org.opencontainers.image.ref.name": name,
		},
	}
	index, err := json.Marshal(v1.IndexManifest{
		SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{desc},
	})
	if err != nil {
		return fmt.Errorf("make the index: %w", err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return fmt.Errorf("make the configuration: %w", err)
	}

	meter := &meter{ctx: ctx, w: w, progress: s.progress, step: "writing " + name}
	for _, layer := range manifest.Layers {
		meter.total += layer.Size
	}
	out := tar.NewWriter(meter)
	add := func(name string, size int64, content io.Reader) error {
		header := &tar.Header{
			Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size, ModTime: created,
		}
		if err := out.WriteHeader(header); err != nil {
			return fmt.Errorf("write the header of %s: %w", name, err)
		}
		if _, err := io.Copy(out, content); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		return nil
	}
	for _, file := range []struct {
		name    string
		content []byte
	}{
		{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{"index.json", index},
		{blobPath(digest), rawManifest},
		{blobPath(manifest.Config.Digest), config},
	} {
		if err := add(file.name, int64(len(file.content)), bytes.NewReader(file.content)); err != nil {
			return err
		}
	}
	for _, described := range manifest.Layers {
		layer, err := image.LayerByDigest(described.Digest)
		if err != nil {
			return fmt.Errorf("find layer %s: %w", described.Digest, err)
		}
		content, err := layer.Compressed()
		if err != nil {
			return fmt.Errorf("open layer %s: %w", described.Digest, err)
		}
		err = add(blobPath(described.Digest), described.Size, content)
		if err := errors.Join(err, content.Close()); err != nil {
			return err
		}
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("end the archive: %w", err)
	}
	return nil
}

func blobPath(digest v1.Hash) string {
	return "blobs/" + digest.Algorithm + "/" + digest.Hex
}

// archive is an open archive of one image. Its blobs are read from the file when
// they are asked for; until Close, by any number of goroutines.
type archive struct {
	file  *os.File
	files map[string]*io.SectionReader // by their names in the archive
	desc  v1.Descriptor                // of the manifest
	image v1.Image
}

// openArchive opens what writeArchive wrote. It checks everything but the content
// of the layers, of which it checks that all of it is there: whoever unpacks a
// layer checks its digest anyhow, and reading a gigabyte takes its time.
func openArchive(path string) (*archive, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open an image: %w", err)
	}
	a := &archive{file: file, files: map[string]*io.SectionReader{}}
	if err := a.check(); err != nil {
		return nil, errors.Join(fmt.Errorf("image archive %s is damaged, delete it: %w", path, err), file.Close())
	}
	return a, nil
}

func (a *archive) Close() error { return a.file.Close() }

func (a *archive) check() error {
	in := tar.NewReader(a.file)
	for {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
		// Next reads no further than to the end of a header, and seeks over
		// the files.
		offset, err := a.file.Seek(0, io.SeekCurrent)
		if err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
		a.files[header.Name] = io.NewSectionReader(a.file, offset, header.Size)
	}

	raw, err := a.read("index.json")
	if err != nil {
		return err
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("parse the index: %w", err)
	}
	if len(index.Manifests) != 1 {
		return fmt.Errorf("%d manifests in the index, not one", len(index.Manifests))
	}
	a.desc = index.Manifests[0]
	manifest, err := a.RawManifest()
	if err != nil {
		return err
	}
	parsed, err := v1.ParseManifest(bytes.NewReader(manifest))
	if err != nil {
		return fmt.Errorf("parse the manifest: %w", err)
	}
	if _, err := a.verified(parsed.Config.Digest); err != nil {
		return err
	}
	for _, layer := range parsed.Layers {
		if found, err := a.blob(layer.Digest); err != nil {
			return err
		} else if size := found.SectionReader.Size(); size != layer.Size {
			return fmt.Errorf("layer %s has %d bytes, not %d", layer.Digest, size, layer.Size)
		}
	}
	if a.image, err = partial.CompressedToImage(a); err != nil {
		return fmt.Errorf("read the image: %w", err)
	}
	return nil
}

// read returns a small file of the archive.
func (a *archive) read(name string) ([]byte, error) {
	file, ok := a.files[name]
	if !ok {
		return nil, fmt.Errorf("no %s in the archive", name)
	}
	content := make([]byte, min(file.Size(), 4<<20))
	if _, err := file.ReadAt(content, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return content, nil
}

// verified returns a small blob and makes sure of its digest.
func (a *archive) verified(digest v1.Hash) ([]byte, error) {
	content, err := a.read(blobPath(digest))
	if err != nil {
		return nil, err
	}
	got, _, err := v1.SHA256(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("hash blob %s: %w", digest, err)
	}
	if got != digest {
		return nil, fmt.Errorf("blob %s has the digest %s", digest, got)
	}
	return content, nil
}

func (a *archive) blob(digest v1.Hash) (blob, error) {
	file, ok := a.files[blobPath(digest)]
	if !ok {
		return blob{}, fmt.Errorf("no blob %s in the archive", digest)
	}
	return blob{SectionReader: file, digest: digest}, nil
}

// MediaType, RawManifest, RawConfigFile and LayerByDigest are what
// partial.CompressedToImage makes an image of.

func (a *archive) MediaType() (types.MediaType, error) { return a.desc.MediaType, nil }

func (a *archive) RawManifest() ([]byte, error) { return a.verified(a.desc.Digest) }

func (a *archive) RawConfigFile() ([]byte, error) {
	manifest, err := partial.Manifest(a)
	if err != nil {
		return nil, fmt.Errorf("parse the manifest: %w", err)
	}
	return a.verified(manifest.Config.Digest)
}

func (a *archive) LayerByDigest(digest v1.Hash) (partial.CompressedLayer, error) {
	return a.blob(digest)
}

// inspect returns the image in an archive if the archive is whole.
func inspect(path string) (Image, error) {
	a, err := openArchive(path)
	if err != nil {
		return Image{}, err
	}
	image := Image{
		Name:    a.desc.Annotations["io.containerd.image.name"],
		Archive: path,
		Digest:  a.desc.Digest.String(),
	}
	return image, a.Close()
}
