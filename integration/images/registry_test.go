package images

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// newRegistry starts a registry and a client that has no connection left when the
// test ends.
func newRegistry(t *testing.T) (*Registry, *http.Transport) {
	t.Helper()
	r, err := NewRegistry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Transport{}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, client
}

func push(t *testing.T, r *Registry, image Image) string {
	t.Helper()
	ref, err := r.Push(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func TestPull(t *testing.T) {
	r, client := newRegistry(t)
	image := mustBusybox(t, newCache(t))
	ref := push(t, r, image)
	if want := r.Addr() + "/peregrine/busybox:latest"; ref != want {
		t.Errorf("reference %s, want %s", ref, want)
	}
	// Deleted from the cache, it is still served.
	if err := os.Remove(image.Archive); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			pulled, err := remote.Image(tag, remote.WithContext(t.Context()), remote.WithTransport(client))
			if err != nil {
				t.Error(err)
				return
			}
			if digest, err := pulled.Digest(); err != nil || digest.String() != image.Digest {
				t.Errorf("pulled %s, error %v, want %s", digest, err, image.Digest)
			}
			checkLayers(t, pulled)
		})
	}
	group.Wait()
}

func TestRange(t *testing.T) {
	r, client := newRegistry(t)
	image := mustBusybox(t, newCache(t))
	push(t, r, image)
	a, err := openArchive(image.Archive)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	manifest, err := a.image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + r.Addr() + "/v2/peregrine/busybox/blobs/" + manifest.Config.Digest.String()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Range", "bytes=1-14")
	response, err := client.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusPartialContent || string(body) != `"architecture"` {
		t.Errorf("status %d, body %q, error %v", response.StatusCode, body, err)
	}
}

func TestPushErrors(t *testing.T) {
	r, _ := newRegistry(t)
	image := mustBusybox(t, newCache(t))
	if _, err := r.Push(t.Context(), Image{Name: "not a name", Archive: image.Archive}); err == nil {
		t.Error("pushed a name that is none")
	}
	if _, err := r.Push(t.Context(), Image{Name: image.Name, Archive: image.Archive + ".gone"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pushed an archive that isn't there: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := r.Push(t.Context(), image); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("pushed to a registry that is closed: %v", err)
	}
}

// TestCloseBreaksOffPulls leaves a response unread; goleak in TestMain and the
// wait in Close would notice a goroutine that stays.
func TestCloseBreaksOffPulls(t *testing.T) {
	r, client := newRegistry(t)
	const size = 64 << 20 // more than the socket's buffers take
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	digest := "sha256:" + strings.Repeat("0", 64)
	a := &archive{file: file, files: map[string]*io.SectionReader{
		"blobs/sha256/" + strings.Repeat("0", 64): io.NewSectionReader(file, 0, size),
	}}
	if err := r.add(a); err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
		"http://"+r.Addr()+"/v2/peregrine/zeros/blobs/"+digest, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if n, err := io.Copy(io.Discard, response.Body); err == nil {
		t.Errorf("read all %d bytes after Close", n)
	}
}
