package extents

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"
)

// Usage returns the bytes and inodes that belong to the tree at root, each hard
// link counted once. Files that vanish while it walks are left out: a container
// may be running on the tree.
func Usage(ctx context.Context, root string) (snapshots.Usage, error) {
	type inode struct{ dev, ino uint64 }
	var (
		seen  = map[inode]struct{}{}
		tally Tally
		usage snapshots.Usage
	)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return ignoreVanished(err)
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return ignoreVanished(err)
		}
		if st.Nlink > 1 && !d.IsDir() {
			id := inode{uint64(st.Dev), st.Ino}
			if _, ok := seen[id]; ok {
				return nil
			}
			seen[id] = struct{}{}
		}
		usage.Inodes++
		const statBlock = 512
		if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Blocks == 0 {
			usage.Size += st.Blocks * statBlock
			return nil
		}
		extents, err := ofFile(path)
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) {
			usage.Size += st.Blocks * statBlock
			return nil
		}
		if err != nil {
			return ignoreVanished(err)
		}
		tally.Add(extents...)
		return nil
	})
	if err != nil {
		return snapshots.Usage{}, fmt.Errorf("usage of %s: %w", root, err)
	}
	usage.Size += int64(tally.Bytes())
	return usage, nil
}

func ignoreVanished(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// fiemap is struct fiemap with room for batch extents, of linux/fiemap.h.
type fiemap struct {
	start, length uint64
	flags, mapped uint32
	count, _      uint32
	extents       [batch]fiemapExtent
}

type fiemapExtent struct {
	logical, physical, length uint64
	_                         [2]uint64
	flags                     uint32
	_                         [3]uint32
}

const (
	batch = 128

	fsIOCFiemap = 0xc020660b // _IOWR('f', 11, struct fiemap)

	extentLast       = 0x1
	extentUnknown    = 0x2 // delayed allocation: no place on the disk yet
	extentDataInline = 0x200
	extentShared     = 0x2000
)

// ofFile lists the extents of the regular file at path. It opens the file without
// touching its access time and never blocks on a special file put in its place.
func ofFile(path string) ([]Extent, error) {
	f, err := os.OpenFile(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOATIME, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var (
		extents []Extent
		req     fiemap
	)
	for start := uint64(0); ; {
		req.start, req.length, req.count, req.mapped, req.flags = start, ^uint64(0)-start, batch, 0, 0
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIOCFiemap, uintptr(unsafe.Pointer(&req))); errno != 0 {
			return nil, &os.PathError{Op: "fiemap", Path: path, Err: errno}
		}
		if req.mapped == 0 {
			return extents, nil
		}
		for _, e := range req.extents[:req.mapped] {
			extents = append(extents, Extent{
				Physical: e.physical,
				Length:   e.length,
				Shared:   e.flags&extentShared != 0 && e.flags&(extentUnknown|extentDataInline) == 0,
			})
			start = e.logical + e.length
			if e.flags&extentLast != 0 {
				return extents, nil
			}
		}
	}
}
