package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// offer makes an offer of the namespace of a kind of this thread.
func offer(t *testing.T, dir, name, kind string) {
	t.Helper()
	path := filepath.Join(dir, ready, name)
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	ns := filepath.Join(path, namespaceFile)
	if err := os.WriteFile(ns, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if kind == "" {
		return
	}
	if err := unix.Mount("/proc/self/ns/"+kind, ns, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, state := range []string{ready, taken, done} {
			err := unix.Unmount(filepath.Join(dir, state, name, namespaceFile), unix.MNT_DETACH)
			if err != nil && !errors.Is(err, unix.ENOENT) {
				t.Error(err)
			}
		}
	})
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func TestLife(t *testing.T) {
	dir := t.TempDir()
	if o, err := Take(t.Context(), dir, "1 2"); o != nil || err != nil {
		t.Fatalf("of nothing: %v, %v", o, err)
	}
	offer(t, dir, "a", "net")
	o, err := Take(t.Context(), dir, "1 2")
	if err != nil || o == nil {
		t.Fatalf("%v, %v", o, err)
	}
	var want, got unix.Stat_t
	if err := errors.Join(unix.Stat("/proc/self/ns/net", &want), unix.Fstat(int(o.Namespace.Fd()), &got)); err != nil {
		t.Fatal(err)
	}
	if want.Ino != got.Ino {
		t.Errorf("namespace %d, want %d", got.Ino, want.Ino)
	}
	if text, err := os.ReadFile(filepath.Join(dir, taken, "a", ownerFile)); err != nil || string(text) != "1 2\n" {
		t.Errorf("owner %q, %v", text, err)
	}
	if again, err := Take(t.Context(), dir, "3 4"); again != nil || err != nil {
		t.Errorf("taken twice: %v, %v", again, err)
	}
	if err := o.Use(Container{ID: "c", Namespace: "default", Bundle: "/b", Pid: 7}); err != nil {
		t.Fatal(err)
	}
	const whose = `{"id":"c","namespace":"default","bundle":"/b","pid":7}`
	if text, err := os.ReadFile(filepath.Join(dir, taken, "a", containerFile)); err != nil || string(text) != whose {
		t.Errorf("container %q, %v", text, err)
	}
	if err := o.Done(); err != nil {
		t.Fatal(err)
	}
	if !exists(filepath.Join(dir, done, "a", namespaceFile)) || exists(filepath.Join(dir, taken, "a")) {
		t.Error("a used offer is not where it is taken apart")
	}
	if err := Finish(dir, "a"); err != nil {
		t.Errorf("of one that is done: %v", err)
	}
}

func TestTakeWrong(t *testing.T) {
	for name, kind := range map[string]string{"file": "", "uts": "uts"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			offer(t, dir, "a", kind)
			if o, err := Take(t.Context(), dir, "1 2"); o != nil || err != nil {
				t.Fatalf("took %v, %v", o, err)
			}
			if !exists(filepath.Join(dir, done, "a")) {
				t.Error("it is not put away")
			}
		})
	}
}

func TestTakeOnce(t *testing.T) {
	dir := t.TempDir()
	const offers, takers = 8, 32
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for i := range offers {
		offer(t, dir, fmt.Sprint(i), "net")
	}
	var got atomic.Int32
	var group sync.WaitGroup
	for range takers {
		group.Go(func() {
			o, err := Take(t.Context(), dir, "1 2")
			if err != nil {
				t.Error(err)
			}
			if o != nil {
				got.Add(1)
				o.Namespace.Close()
			}
		})
	}
	group.Wait()
	if got.Load() != offers {
		t.Errorf("%d of %d offers were taken", got.Load(), offers)
	}
}
