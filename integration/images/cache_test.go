package images

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func TestReproducible(t *testing.T) {
	one, two := mustBusybox(t, newCache(t)), mustBusybox(t, newCache(t))
	if one.Digest != two.Digest {
		t.Errorf("digests differ: %s and %s", one.Digest, two.Digest)
	}
	first, err := os.ReadFile(one.Archive)
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(two.Archive)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("archives differ")
	}
}

func TestRebuiltWhenTheRecipeChanges(t *testing.T) {
	cache := newCache(t)
	before := mustBusybox(t, cache)
	again := mustBusybox(t, cache)
	if again != before {
		t.Errorf("got %v, then %v", before, again)
	}
	busybox := filepath.Join(cache, "debian", "bin", "busybox")
	if err := os.WriteFile(busybox, []byte("#!/bin/sh\necho bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	after := mustBusybox(t, cache)
	if after.Archive == before.Archive || after.Digest == before.Digest {
		t.Errorf("another busybox, the same image %v", after)
	}
	checkCache(t, cache, before.Archive, after.Archive)
}

func TestNoBusybox(t *testing.T) {
	_, err := Busybox(t.Context(), t.TempDir(), nil)
	if err == nil || !strings.Contains(err.Error(), "build.sh") {
		t.Errorf("error without a remedy: %v", err)
	}
}

// counted is a recipe that counts its builds and runs during in each.
func counted(builds *int, during func(context.Context, *site) error) recipe {
	return recipe{
		name: "docker.io/peregrine/counted:latest",
		from: "TestOneBuilds",
		build: func(ctx context.Context, s *site) (v1.Image, error) {
			*builds++ // under the image's lock
			layer, err := s.layer(ctx, "packing", 0, func(w io.Writer) error {
				return errors.Join(writeEntries(w, busyboxSecond()), during(ctx, s))
			})
			if err != nil {
				return nil, err
			}
			return assemble(v1.Config{}, layer)
		},
	}
}

func nothing(context.Context, *site) error { return nil }

func TestOneBuildsAndTheRestWait(t *testing.T) {
	cache, builds := t.TempDir(), 0
	waiting := make(chan struct{})
	first := counted(&builds, func(context.Context, *site) error {
		<-waiting // until the second is known to wait
		return nil
	})
	var group sync.WaitGroup
	started := make(chan struct{})
	var one, two Image
	var oneErr, twoErr error
	group.Go(func() {
		one, oneErr = first.cached(t.Context(), cache, func(step string, _, _ int64) {
			if step == "packing" {
				select {
				case <-started:
				default:
					close(started)
				}
			}
		})
	})
	<-started
	group.Go(func() {
		two, twoErr = counted(&builds, nothing).cached(t.Context(), cache, func(step string, _, _ int64) {
			if strings.HasPrefix(step, "waiting") {
				close(waiting)
			}
		})
	})
	group.Wait()
	if oneErr != nil || twoErr != nil {
		t.Fatalf("errors: %v, %v", oneErr, twoErr)
	}
	if builds != 1 || one != two {
		t.Errorf("%d builds, of %v and %v", builds, one, two)
	}
	checkCache(t, cache, one.Archive)
}

func TestWaitIsCancelled(t *testing.T) {
	cache, builds := t.TempDir(), 0
	ctx, cancel := context.WithCancel(t.Context())
	image, err := counted(&builds, func(context.Context, *site) error {
		_, err := counted(&builds, nothing).cached(ctx, cache, func(string, int64, int64) { cancel() })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a wait that is cancelled ended with %v", err)
		}
		return nil
	}).cached(t.Context(), cache, nil)
	if err != nil || builds != 1 {
		t.Errorf("%d builds, error %v", builds, err)
	}
	checkCache(t, cache, image.Archive)
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		name   string
		during func(context.CancelFunc) error
		want   error
	}{
		{"error", func(context.CancelFunc) error { return broken }, broken},
		{"cancelled", func(cancel context.CancelFunc) error { cancel(); return nil }, context.Canceled},
	} {
		t.Run(test.name, func(t *testing.T) {
			cache, builds := t.TempDir(), 0
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			_, err := counted(&builds, func(context.Context, *site) error {
				return test.during(cancel)
			}).cached(ctx, cache, nil)
			if !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
			checkCache(t, cache)
			image, err := counted(&builds, nothing).cached(t.Context(), cache, nil)
			if err != nil || builds != 2 {
				t.Errorf("second try: %d builds, error %v", builds, err)
			}
			checkCache(t, cache, image.Archive)
		})
	}
}

func TestLeftoversOfAKilledBuildAreRemoved(t *testing.T) {
	cache := newCache(t)
	if err := os.MkdirAll(filepath.Join(cache, "images"), 0o755); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(cache, "images", "busybox.123.tmp")
	other := filepath.Join(cache, "images", "busybox-data.123.tmp") // somebody else's
	for _, path := range []string{left, other} {
		if err := os.WriteFile(path, []byte("half an archive"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	image := mustBusybox(t, cache)
	checkCache(t, cache, image.Archive, other)
}

func TestDamagedArchiveIsBuiltAgain(t *testing.T) {
	for _, test := range []struct {
		name   string
		damage func(content []byte) []byte
	}{
		{"empty", func([]byte) []byte { return nil }},
		{"cut short", func(c []byte) []byte { return c[:len(c)/2] }},
		{"no tar", func(c []byte) []byte { return bytes.Repeat([]byte("x"), len(c)) }},
		{"index", func(c []byte) []byte { return bytes.Replace(c, []byte(`"manifests"`), []byte(`"manifexts"`), 1) }},
		{"manifest", func(c []byte) []byte { return bytes.Replace(c, []byte(`"layers"`), []byte(`"lawyers`), 1) }},
		{"configuration", func(c []byte) []byte { return bytes.Replace(c, []byte(`"rootfs"`), []byte(`"rootfx"`), 1) }},
		{"no layer", func(c []byte) []byte {
			last := bytes.LastIndex(c, []byte("blobs/sha256/"))
			return append(bytes.Clone(c[:last]), bytes.Replace(c[last:], []byte("blobs"), []byte("blabs"), 1)...)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cache := newCache(t)
			image := mustBusybox(t, cache)
			content, err := os.ReadFile(image.Archive)
			if err != nil {
				t.Fatal(err)
			}
			damaged := test.damage(bytes.Clone(content))
			if bytes.Equal(damaged, content) {
				t.Fatal("the test damages nothing")
			}
			if err := os.WriteFile(image.Archive, damaged, 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := openArchive(image.Archive); err == nil || !strings.Contains(err.Error(), "delete it") {
				t.Errorf("opened with error %v", err)
			}
			if again := mustBusybox(t, cache); again != image {
				t.Errorf("built %v, then %v", image, again)
			}
			mended, err := os.ReadFile(image.Archive)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(mended, content) {
				t.Error("the archive isn't what it was")
			}
			checkCache(t, cache, image.Archive)
		})
	}
}

// checkLayers reads every layer and compares it with what the manifest and the
// configuration say of it.
func checkLayers(t *testing.T, image v1.Image) {
	t.Helper()
	manifest, err := image.Manifest()
	if err != nil {
		t.Error(err)
		return
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Error(err)
		return
	}
	if len(manifest.Layers) == 0 || len(config.RootFS.DiffIDs) != len(manifest.Layers) {
		t.Errorf("%d layers, %d diff IDs", len(manifest.Layers), len(config.RootFS.DiffIDs))
		return
	}
	for i, want := range manifest.Layers {
		layer, err := image.LayerByDigest(want.Digest)
		if err != nil {
			t.Error(err)
			continue
		}
		content, err := layer.Compressed()
		if err != nil {
			t.Error(err)
			continue
		}
		digest, size, err := v1.SHA256(content)
		if err := errors.Join(err, content.Close()); err != nil {
			t.Error(err)
		}
		if digest != want.Digest || size != want.Size || digest != config.RootFS.DiffIDs[i] {
			t.Errorf("layer %d: digest %s, %d bytes, want %s, %d", i, digest, size, want.Digest, want.Size)
		}
	}
}

func TestArchiveIsValid(t *testing.T) {
	a, err := openArchive(mustBusybox(t, newCache(t)).Archive)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	checkLayers(t, a.image)
}

func TestProgressCountsBytes(t *testing.T) {
	var told []int64
	m := &meter{ctx: t.Context(), w: io.Discard, total: 3 * tellEvery, progress: func(step string, done, total int64) {
		if step != "" || total != 3*tellEvery {
			t.Errorf("step %q, total %d", step, total)
		}
		told = append(told, done)
	}}
	for range 6 {
		if _, err := m.Write(make([]byte, tellEvery/2)); err != nil {
			t.Fatal(err)
		}
	}
	if len(told) != 3 || told[2] != 3*tellEvery {
		t.Errorf("told %v", told)
	}
}
