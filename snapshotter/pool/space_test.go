package pool

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// take allocates all of a file system but left bytes of it.
func take(t *testing.T, dir string, left int64) {
	t.Helper()
	_, free, err := space(dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "taken"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, free-left); err != nil {
		t.Fatal(err)
	}
}

// fillUp writes a file system to the last block.
func fillUp(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := miB; size >= 4096; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

func TestGrow(t *testing.T) {
	pl := newPlace(t)
	p := pl.open(t, small)
	if err := p.Grow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if size := imageSize(t, pl.image); size != minImage {
		t.Errorf("grew to %d with enough free", size)
	}
	// A container writes while the pool grows.
	f, err := os.Create(filepath.Join(pl.dir, "busy"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("before "); err != nil {
		t.Fatal(err)
	}
	take(t, pl.dir, 10*miB)
	before := stats(t, p)
	want := small.growth(minImage, before.Free, before.HostFree)
	if err := p.Grow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if grown := imageSize(t, pl.image) - minImage; grown != want || want == 0 {
		t.Errorf("grew by %d, want %d", grown, want)
	}
	// The new space takes some of itself for its own metadata.
	if after := stats(t, p); after.Free < before.Free+want*9/10 || after.Size < before.Size+want*9/10 {
		t.Errorf("grew by %d from %+v to %+v", want, before, after)
	}
	if _, err := f.WriteString("after"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	size := imageSize(t, pl.image)
	pl.reopen(t, small)
	wants(t, filepath.Join(pl.dir, "busy"), "before after")
	if again := imageSize(t, pl.image); again != size {
		t.Errorf("opening changed %d bytes to %d", size, again)
	}
}

func TestGrowStopsAtTheBound(t *testing.T) {
	pl := newPlace(t)
	bound := small
	bound.Max = minImage + 32*miB
	p := pl.open(t, bound)
	take(t, pl.dir, 10*miB)
	for range 3 {
		if err := p.Grow(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if size := imageSize(t, pl.image); size != bound.Max {
		t.Errorf("grew to %d, want %d", size, bound.Max)
	}
}

// TestGrowthCutShort finds an image that is longer than its file system: the process
// was killed between the two.
func TestGrowthCutShort(t *testing.T) {
	for name, again := range map[string]func(pl place, t *testing.T) *Pool{
		"mounted since": func(pl place, t *testing.T) *Pool { return pl.open(t, small) },
		"after a boot":  func(pl place, t *testing.T) *Pool { return pl.reopen(t, small) },
	} {
		t.Run(name, func(t *testing.T) {
			pl := newPlace(t)
			before := stats(t, pl.open(t, small))
			f, err := os.OpenFile(pl.image, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := allocate(f, minImage, 64*miB); err != nil {
				t.Fatal(err)
			}
			if got := stats(t, again(pl, t)).Size - before.Size; got != 64*miB {
				t.Errorf("the file system grew by %d bytes, want 64 MiB", got)
			}
		})
	}
}

// TestFailedGrowthsDontPileUp keeps an image from growing into the host's last space
// while its file system doesn't grow with it.
func TestFailedGrowthsDontPileUp(t *testing.T) {
	pl := newPlace(t)
	p := pl.open(t, small)
	take(t, pl.dir, 10*miB)
	broken(t, "xfs_growfs")
	for range 3 {
		if err := p.Grow(t.Context()); err == nil {
			t.Error("grew without xfs_growfs")
		}
	}
	if size := imageSize(t, pl.image); size > minImage+small.growth(minImage, 0, giB) {
		t.Errorf("the image has %d bytes by now", size)
	}
}

func TestAdmitGrowsFirst(t *testing.T) {
	pl := newPlace(t)
	p := pl.open(t, small)
	if err := p.Admit(t.Context()); err != nil || imageSize(t, pl.image) != minImage {
		t.Errorf("with enough free: %v and %d bytes", err, imageSize(t, pl.image))
	}
	take(t, pl.dir, 10*miB)
	if err := p.Admit(t.Context()); err != nil || stats(t, p).Free < small.Reserve {
		t.Errorf("with room on the host: %v, %+v", err, stats(t, p))
	}
}

// TestFullHost fills the host and then the pool. What the pool accepts, it has to keep:
// an image with holes in it accepts writes and loses them.
func TestFullHost(t *testing.T) {
	pl := placeOn(t, 600*miB)
	tight := small
	tight.HostReserve = 4096
	p := pl.open(t, tight)
	fillUp(t, pl.root)
	file := filepath.Join(pl.dir, "data")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// Each chunk says which it is. It counts once fsync has returned.
	const size = 4 * miB
	chunk, written := make([]byte, size), 0
	for {
		fillChunk(chunk, written)
		if _, err = f.Write(chunk); err == nil {
			err = f.Sync()
		}
		if err != nil {
			break
		}
		written++
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("the last write failed with %v, want ENOSPC", err)
	}
	if want := stats(t, p).Size * 9 / 10; int64(written)*size < want {
		t.Errorf("wrote %d bytes, want at least %d", int64(written)*size, want)
	}
	if err := p.Admit(t.Context()); !errdefs.IsResourceExhausted(err) {
		t.Errorf("got %v, want ErrResourceExhausted", err)
	}
	if size := imageSize(t, pl.image); size != minImage {
		t.Errorf("the image grew to %d bytes on a full host", size)
	}
	f.Close()
	pl.reopen(t, tight)
	if f, err = os.Open(file); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, size)
	for i := range written {
		fillChunk(chunk, i)
		if _, err := f.ReadAt(got, int64(i)*size); err != nil || !bytes.Equal(got, chunk) {
			t.Fatalf("chunk %d was written and is lost: %v", i, err)
		}
	}
}

// fillChunk writes into each block which it is.
func fillChunk(chunk []byte, n int) {
	for i := 0; i < len(chunk); i += 4096 {
		binary.LittleEndian.PutUint64(chunk[i:], uint64(n)<<32|uint64(i))
	}
}

// TestWatch grows a pool before anybody asks, and ends with its context.
func TestWatch(t *testing.T) {
	pl := newPlace(t)
	p := pl.open(t, small)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { p.Watch(ctx); close(ended) }()
	defer func() { cancel(); <-ended }()
	take(t, pl.dir, 10*miB)
	deadline := time.After(time.Minute)
	for stats(t, p).Free < small.Headroom {
		select {
		case <-deadline:
			t.Fatalf("the pool didn't grow: %+v", stats(t, p))
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	select {
	case <-ended:
	case <-deadline:
		t.Fatal("Watch goes on after its context")
	}
}

// TestConcurrentGrowth calls what a busy daemon calls at the same time.
func TestConcurrentGrowth(t *testing.T) {
	pl := newPlace(t)
	bound := small
	bound.Max = minImage + 128*miB
	p := pl.open(t, bound)
	take(t, pl.dir, 10*miB)
	done := make(chan error)
	for range 8 {
		go func() { done <- errors.Join(p.Admit(t.Context()), p.Grow(t.Context())) }()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if size := imageSize(t, pl.image); size > bound.Max {
		t.Errorf("grew to %d bytes, over the bound of %d", size, bound.Max)
	}
}
