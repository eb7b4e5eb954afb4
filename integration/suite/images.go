package suite

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/peregrine-dev/peregrine/integration/images"
)

// Registry serves stand-ins for the images that the suite pulls. All are made of
// busybox, and for several platforms; only this machine's can run.
type Registry struct {
	Addr          string // host and port on loopback, plain HTTP
	BusyboxDigest string // of containerd/busybox:1.36, with sha256:

	server *httptest.Server
}

// platforms are those of each index. Tests ask for the first three.
var platforms = []v1.Platform{
	{OS: "linux", Architecture: "amd64"},
	{OS: "linux", Architecture: "arm64", Variant: "v8"},
	{OS: "linux", Architecture: "s390x"},
	{OS: "linux", Architecture: "ppc64le"},
}

// file is a file of a layer; a directory if its path ends in a slash.
type file struct {
	path string
	mode int64
	uid  int
	body string
}

// contents are the images by name: the files of one layer above busybox.
var contents = map[string][]file{
	"containerd/busybox:1.36": {
		{"etc/passwd", 0o644, 0, "root:x:0:0:root:/root:/bin/sh\nsys:x:3:3:sys:/dev:/bin/false\n" +
			"www-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n"},
		{"etc/group", 0o644, 0, "root:x:0:\nsys:x:3:\nwww-data:x:33:\nnogroup:x:65534:\n"},
		// As process 1 of its namespace, Debian's nc ignores SIGTERM.
		{"usr/bin/nc", 0o755, 0, "#!/bin/sh\ntrap 'exit 143' TERM\n/bin/busybox nc \"$@\" &\nwait $!\n"},
		{"bin/nc", 0o755, 0, "#!/bin/sh\nexec /usr/bin/nc \"$@\"\n"},
	},
	"e2e-test-images/busybox:1.29-2": {{"etc/suite", 0o644, 0, "another busybox\n"}},
	"pause:3.6":                      {{"etc/suite", 0o644, 0, "old pause\n"}},
	"pause:3.10.2":                   {{"etc/suite", 0o644, 0, "pause\n"}},
	"containerd/volume-copy-up:2.2": {
		{"test_dir/", 0o755, 0, ""},
		{"test_dir/test_file", 0o644, 0, "test_content\n"},
	},
	"containerd/volume-ownership:2.1": {
		{"bin/bash", 0o755, 0, "#!/bin/sh\nexec /bin/sh \"$@\"\n"},
		{"usr/bin/passwd", 0o4755, 0, "#!/bin/sh\n"},
		{"test_dir/", 0o755, 65534, ""},
	},
}

// NewRegistry makes the images and serves them until Close.
func NewRegistry(ctx context.Context, cache string) (_ *Registry, err error) {
	base, err := busybox(ctx, cache)
	if err != nil {
		return nil, err
	}
	r := &Registry{server: httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	r.Addr = strings.TrimPrefix(r.server.URL, "http://")
	for image, files := range contents {
		index, err := index(base, image, files)
		if err != nil {
			return nil, fmt.Errorf("make image %s: %w", image, err)
		}
		ref, err := name.ParseReference(r.Addr+"/"+image, name.Insecure)
		if err != nil {
			return nil, err
		}
		if err := remote.WriteIndex(ref, index, remote.WithContext(ctx)); err != nil {
			return nil, fmt.Errorf("push image %s: %w", image, err)
		}
		if image == "containerd/busybox:1.36" {
			digest, err := index.Digest()
			if err != nil {
				return nil, err
			}
			r.BusyboxDigest = digest.String()
		}
	}
	return r, nil
}

// Close ends the registry.
func (r *Registry) Close() { r.server.Close() }

// busybox is the layers of the busybox image, as gzip, which is what the world's
// registries have.
func busybox(ctx context.Context, cache string) (_ []v1.Layer, err error) {
	image, err := images.Busybox(ctx, cache, nil)
	if err != nil {
		return nil, err
	}
	served, err := images.NewRegistry(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, served.Close()) }()
	pushed, err := served.Push(ctx, image)
	if err != nil {
		return nil, err
	}
	ref, err := name.ParseReference(pushed, name.Insecure)
	if err != nil {
		return nil, err
	}
	pulled, err := remote.Image(ref, remote.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", image.Name, err)
	}
	plain, err := pulled.Layers()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", image.Name, err)
	}
	var layers []v1.Layer
	for _, layer := range plain {
		content, err := layer.Uncompressed()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", image.Name, err)
		}
		text, err := io.ReadAll(content)
		if err := errors.Join(err, content.Close()); err != nil {
			return nil, fmt.Errorf("read %s: %w", image.Name, err)
		}
		packed, err := packed(text)
		if err != nil {
			return nil, err
		}
		layers = append(layers, packed)
	}
	return layers, nil
}

// index makes an image for each platform.
func index(base []v1.Layer, image string, files []file) (v1.ImageIndex, error) {
	list := mutate.IndexMediaType(empty.Index, types.DockerManifestList)
	for i, platform := range platforms {
		layers := base
		if i > 0 {
			layers = nil
			files = []file{{"etc/suite", 0o644, 0, image + " for " + platform.String() + "\n"}}
		}
		top, err := layer(files)
		if err != nil {
			return nil, err
		}
		made, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
			OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant,
			RootFS: v1.RootFS{Type: "layers"},
			Config: v1.Config{
				Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
				Cmd: []string{"sh"},
			},
		})
		if err != nil {
			return nil, err
		}
		all := append(append([]v1.Layer{}, layers...), top)
		if made, err = mutate.AppendLayers(made, all...); err != nil {
			return nil, err
		}
		list = mutate.AppendManifests(list, mutate.IndexAddendum{
			Add: made, Descriptor: v1.Descriptor{Platform: &platform},
		})
	}
	return list, nil
}

// layer packs files.
func layer(files []file) (v1.Layer, error) {
	var text bytes.Buffer
	out := tar.NewWriter(&text)
	for _, f := range files {
		header := &tar.Header{
			Name: f.path, Mode: f.mode, Uid: f.uid, Gid: f.uid, Size: int64(len(f.body)),
			Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
		}
		if strings.HasSuffix(f.path, "/") {
			header.Typeflag = tar.TypeDir
		}
		if err := out.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(out, f.body); err != nil {
			return nil, err
		}
	}
	if err := out.Close(); err != nil {
		return nil, err
	}
	return packed(text.Bytes())
}

// packed is a layer of a tar archive.
func packed(text []byte) (v1.Layer, error) {
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(text)), nil
	})
}
