package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	coremount "github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	baoverlay "github.com/peregrine-dev/peregrine/snapshotter"
	"github.com/peregrine-dev/peregrine/snapshotter/config"
	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
)

// TestDiskFull fills the host's disk under a running container. New containers are
// refused while the running one still has room; the running one is told when it has no
// more, and keeps all that it was not told to be lost.
func TestDiskFull(t *testing.T) {
	pooltest.NeedRoot(t)
	leaktest.Check(t)
	dir := workDir(t)
	disk, host := filepath.Join(dir, "disk.img"), filepath.Join(dir, "host")
	if err := pooltest.Mount(t.Context(), disk, host, 1536<<20, "mkfs.ext4", "-q", "-F"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pooltest.Remove(host); err != nil {
			t.Error(err)
		}
	})
	bao := newDaemon(t, func(c *config.Config) {
		smallPool(c)
		c.Root = filepath.Join(host, "baoverlay")
	})
	bao.start(t)
	dropIn, err := bao.DropIn()
	if err != nil {
		t.Fatal(err)
	}
	// Beside the disk: what containerd does without space is not ours.
	c, err := harness.StartContainerd(t.Context(), cache(t), harness.Versions[0], dir, map[string][]byte{"baoverlay.toml": dropIn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	image := busybox(t)
	ctr(t, c, "image", "import", onBaoverlay, image.Archive)
	ctr(t, c, "run", "--detach", onBaoverlay, image.Name, "writer", "sleep", "1000000")
	if err := fill(filepath.Join(host, "filler")); err != nil {
		t.Fatal(err)
	}

	// Up to the reserve, then as far as it goes.
	w := &writer{dir: fmt.Sprintf("/proc/%d/root/data", pid(t, c, "writer")), seed: seeded(t)}
	if err := os.Mkdir(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	poolDir := baoverlay.PoolDir(bao.Config.Root)
	for free(t, poolDir) >= int64(bao.Config.Pool.Reserve) {
		if err := w.write(4 << 20); err != nil {
			t.Fatalf("with %d bytes free in the pool: %v", free(t, poolDir), err)
		}
	}
	_, err = c.Ctr(t.Context(), "run", "--rm", onBaoverlay, image.Name, "refused", "true")
	for _, want := range []string{"resource exhausted", "make room on the host"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a container on a full disk says %v, want %q", err, want)
		}
	}
	for err = nil; err == nil; {
		err = w.write(1 << 20)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a container with no space left is told %v, want ENOSPC", err)
	}

	// All of it is unmounted and mounted again, on a disk that is still full.
	ctr(t, c, "task", "kill", "--signal", "SIGKILL", "writer")
	ctr(t, c, "task", "rm", "--force", "writer")
	if err := errors.Join(bao.Stop(), pooltest.Remove(poolDir), pooltest.Remove(host)); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-o", "loop", disk, host)
	bao.start(t)
	reconnect(t, c)
	sn := bao.client(t)
	defer sn.Close()
	mounts, err := findMounts(t, sn, "writer")
	if err != nil {
		t.Fatal(err)
	}
	if err := coremount.WithTempMount(t.Context(), mounts, func(root string) error {
		return w.check(filepath.Join(root, "data"))
	}); err != nil {
		t.Error(err)
	}

	// Room on the host is room for containers, with no restart.
	if err := os.Remove(filepath.Join(host, "filler")); err != nil {
		t.Fatal(err)
	}
	if out := ctr(t, c, "run", "--rm", onBaoverlay, image.Name, "after", "echo", "ok"); out != "ok\n" {
		t.Errorf("with room again a container printed %q", out)
	}
}

// findMounts finds a containerd snapshot in the snapshotter, which names it by
// namespace, number and key.
func findMounts(t *testing.T, sn client, key string) ([]coremount.Mount, error) {
	t.Helper()
	for name := range walk(t, sn) {
		if strings.HasSuffix(name, "/"+key) {
			return sn.Mounts(t.Context(), name)
		}
	}
	return nil, fmt.Errorf("snapshot %q: %w", key, errdefs.ErrNotFound)
}

// writer writes files of random data, every other one synced, and remembers what was
// accepted.
type writer struct {
	dir   string
	seed  uint64
	sizes []int
}

func (w *writer) write(size int) (err error) {
	n := len(w.sizes)
	f, err := os.Create(filepath.Join(w.dir, fmt.Sprint(n)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(w.data(n, size)); err != nil {
		return err
	}
	if n%2 == 0 {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	w.sizes = append(w.sizes, size)
	return nil
}

func (w *writer) data(n, size int) []byte {
	data := make([]byte, size)
	key := [32]byte{byte(n), byte(n >> 8)}
	for i := range 8 {
		key[8+i] = byte(w.seed >> (8 * i))
	}
	_, _ = rand.NewChaCha8(key).Read(data) // it never fails
	return data
}

// check compares all that was accepted with what is in dir.
func (w *writer) check(dir string) error {
	var errs error
	for n, size := range w.sizes {
		got, err := os.ReadFile(filepath.Join(dir, fmt.Sprint(n)))
		switch {
		case err != nil:
			errs = errors.Join(errs, err)
		case string(got) != string(w.data(n, size)):
			errs = errors.Join(errs, fmt.Errorf("file %d of %d (synced: %t) is not what was written", n, len(w.sizes), n%2 == 0))
		}
	}
	return errs
}

// TestEmptyFullPool fills a pool that can't grow to its last block and makes room again
// with the snapshotter's own calls: before a restart and after a kill.
func TestEmptyFullPool(t *testing.T) {
	pooltest.NeedRoot(t)
	leaktest.Check(t)
	bao := newDaemon(t, func(c *config.Config) {
		smallPool(c)
		c.Pool.MaxSize = c.Pool.Size
	})
	bao.start(t)
	sn := bao.client(t)
	defer sn.Close()
	const n = 100
	for i := range n {
		if _, err := sn.Prepare(t.Context(), fmt.Sprint(i), ""); err != nil {
			t.Fatal(err)
		}
	}
	poolDir := baoverlay.PoolDir(bao.Config.Root)
	mounts, err := sn.Mounts(t.Context(), fmt.Sprint(n-1))
	if err != nil {
		t.Fatal(err)
	}
	err = coremount.WithTempMount(t.Context(), mounts, func(root string) error {
		return errors.Join(fill(filepath.Join(root, "filler")), fillInodes(root))
	})
	if err != nil {
		t.Fatal(err)
	}
	// XFS keeps the last few blocks for itself.
	if left := free(t, poolDir); left > 64<<10 {
		t.Errorf("the full pool has %d bytes free", left)
	}
	_, err = sn.Prepare(t.Context(), "one more", "")
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "remove images or containers") {
		t.Errorf("a full pool says %v, want ErrResourceExhausted and what to do", err)
	}
	for i := range n - 1 {
		if i == n/2 {
			if err := bao.Kill(); err != nil {
				t.Fatal(err)
			}
			bao.start(t)
		}
		if err := sn.Commit(t.Context(), fmt.Sprint("layer", i), fmt.Sprint(i), withLabel("more", strings.Repeat("metadata", 100))); err != nil {
			t.Fatalf("commit of snapshot %d: %v", i, err)
		}
	}
	for i := range n - 1 {
		if err := sn.Remove(t.Context(), fmt.Sprint("layer", i)); err != nil {
			t.Fatalf("remove layer %d: %v", i, err)
		}
	}
	if err := errors.Join(sn.Remove(t.Context(), fmt.Sprint(n-1)), sn.Cleanup(t.Context())); err != nil {
		t.Fatal(err)
	}
	// XFS frees what large files had in its own time.
	for end := time.Now().Add(time.Minute); free(t, poolDir) < int64(bao.Config.Pool.Size)/2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("the emptied pool has %d bytes free", free(t, poolDir))
			break
		}
	}
	if _, err := sn.Prepare(t.Context(), "one more", ""); err != nil {
		t.Error(err)
	}
}

// fill takes the free blocks of a disk for a file, the last one too.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var size int64
	for step := int64(1 << 30); step >= 4096; {
		switch err := unix.Fallocate(int(f.Fd()), 0, size, step); {
		case err == nil:
			size += step
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		case !errors.Is(err, unix.EINTR):
			return err
		}
	}
	return f.Sync()
}

// fillInodes makes files with a block each until there is no room for another.
func fillInodes(dir string) error {
	for i := 0; ; i++ {
		err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), make([]byte, 4096), 0o600)
		if errors.Is(err, unix.ENOSPC) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// free is how many bytes are free on the disk of a directory.
func free(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// pid is the process of a container.
func pid(t *testing.T, c *harness.Containerd, id string) uint32 {
	t.Helper()
	client, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	container, err := client.LoadContainer(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	task, err := container.Task(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return task.Pid()
}
