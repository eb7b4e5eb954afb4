// Package workload is what benchmarks and demo do to files, in a container's root or
// from inside the container.
package workload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const block = 4096

// FirstWrite opens a file for writing, writes 4 KiB into its middle and closes it: what
// a database does first to a file of its image.
func FirstWrite(path string) (time.Duration, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	data := make([]byte, block)
	start := time.Now()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := f.WriteAt(data, fi.Size()/2/block*block); err != nil {
		return 0, err
	}
	if err := f.Close(); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}

// RandomWrite writes n blocks of 4 KiB at random places of a file; after each, sync is
// called if it is not nil. flags go to open.
func RandomWrite(path string, n, flags int, sync func(fd int) error) (time.Duration, error) {
	return random(path, n, os.O_RDWR|flags, func(f *os.File, data []byte, at int64) error {
		if _, err := f.WriteAt(data, at); err != nil || sync == nil {
			return err
		}
		return sync(int(f.Fd()))
	})
}

// RandomRead reads n blocks of 4 KiB at random places of a file that is not cached.
func RandomRead(path string, n int) (time.Duration, error) {
	if err := forget(path); err != nil {
		return 0, err
	}
	return random(path, n, os.O_RDONLY, func(f *os.File, data []byte, at int64) error {
		_, err := f.ReadAt(data, at)
		return err
	})
}

func random(path string, n, flags int, do func(*os.File, []byte, int64) error) (time.Duration, error) {
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	// Mapped memory is aligned, as direct I/O wants it.
	data, err := unix.Mmap(-1, 0, block, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Munmap(data) }()
	r := rand.New(rand.NewPCG(1, uint64(n))) // the same places for ours and the peer
	start := time.Now()
	for range n {
		if err := do(f, data, r.Int64N(fi.Size()/block)*block); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// TouchMapped maps a file and writes into each of its pages, then syncs it.
func TouchMapped(path string) (time.Duration, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Munmap(data) }()
	start := time.Now()
	for i := 0; i < len(data); i += block {
		data[i]++
	}
	if err := unix.Msync(data, unix.MS_SYNC); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}

// SequentialRead reads all of a file that is not cached.
func SequentialRead(path string) (time.Duration, error) {
	if err := forget(path); err != nil {
		return 0, err
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	start := time.Now()
	for {
		_, err := f.Read(buf)
		if errors.Is(err, io.EOF) {
			return time.Since(start), nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// Untar unpacks a tar archive into a new directory.
func Untar(ctx context.Context, archive, dir string) (time.Duration, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, err
	}
	start := time.Now()
	if out, err := exec.CommandContext(ctx, "tar", "-C", dir, "-xf", archive).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("tar: %w: %s", err, out)
	}
	return time.Since(start), nil
}

// FindStat walks a tree and stats each file.
func FindStat(dir string) (time.Duration, error) {
	start := time.Now()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		_, err = d.Info()
		return err
	})
	return time.Since(start), err
}

// forget drops a file's clean pages from the cache.
func forget(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("drop %s from the page cache: %w", path, err)
	}
	return nil
}

// Tar packs a directory into an archive.
func Tar(ctx context.Context, dir, archive string) error {
	if out, err := exec.CommandContext(ctx, "tar", "-C", dir, "-cf", archive, ".").CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	return nil
}
