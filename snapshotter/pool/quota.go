package pool

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	xflags, extsize, nextents, projid, cowextsize uint32
	_                                             [8]byte
}

// diskQuota is struct fs_disk_quota of linux/dqblk_xfs.h; limits are in units of
// 512 bytes.
type diskQuota struct {
	version               int8
	flags                 int8
	fieldmask             uint16
	id                    uint32
	blockHard, blockSoft  uint64
	inodeHard, inodeSoft  uint64
	blockCount            uint64
	inodeCount            uint64
	inodeTimer            int32
	blockTimer            int32
	inodeWarns            uint16
	blockWarns            uint16
	_                     [4]byte
	rtHard, rtSoft, rtCnt uint64
	rtTimer               int32
	rtWarns               uint16
	_                     [10]byte
}

const (
	fsIOCGetXattr = 0x801c581f // _IOR('X', 31, struct fsxattr)
	fsIOCSetXattr = 0x401c5820 // _IOW('X', 32, struct fsxattr)

	xflagProjectInherit = 0x200

	quotaVersion      = 1
	quotaProject      = 2
	quotaBlockHard    = 1 << 3
	quotaSetLimitsCmd = 'X'<<8 + 4 // Q_XSETQLIM
	quotaGetStateCmd  = 'X'<<8 + 5 // Q_XGETQSTAT
	quotaEnforced     = 1 << 5     // FS_QUOTA_PDQ_ENFD
)

// Limit bounds the files below dir to size bytes by a project quota. dir is named by
// a number that no other directory of the pool has, which becomes the project's, and
// holds nothing yet but empty directories. It is errdefs.ErrNotImplemented where the
// pool has no such quotas.
func (p *Pool) Limit(dir string, size uint64) error {
	if !p.quota {
		return fmt.Errorf("%s has no project quotas: the kernel's XFS was built without them, or the engine has no pool of its own: %w",
			p.dir, errdefs.ErrNotImplemented)
	}
	id, err := strconv.ParseUint(filepath.Base(dir), 10, 32)
	if err != nil || id == 0 {
		return fmt.Errorf("%s is not named by a project's number: %w", dir, errdefs.ErrInvalidArgument)
	}
	project := uint32(id)
	q := diskQuota{
		version: quotaVersion, flags: quotaProject, id: project,
		fieldmask: quotaBlockHard, blockHard: (size + 511) / 512,
	}
	device, err := unix.BytePtrFromString(p.device)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL, uintptr(quotaSetLimitsCmd<<8|quotaProject),
		uintptr(unsafe.Pointer(device)), uintptr(project), uintptr(unsafe.Pointer(&q)), 0, 0)
	if errno != 0 {
		return fmt.Errorf("set the quota of project %d on %s: %w", project, p.device, errno)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	dirs := []string{dir}
	for _, e := range entries {
		dirs = append(dirs, filepath.Join(dir, e.Name()))
	}
	for _, d := range dirs {
		if err := assignProject(d, project); err != nil {
			return err
		}
	}
	return nil
}

func assignProject(dir string, project uint32) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	var x fsxattr
	if err := ioctl(f, fsIOCGetXattr, unsafe.Pointer(&x)); err != nil {
		return err
	}
	x.projid = project
	x.xflags |= xflagProjectInherit
	return ioctl(f, fsIOCSetXattr, unsafe.Pointer(&x))
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg)); errno != 0 {
		return &os.PathError{Op: "ioctl", Path: f.Name(), Err: errno}
	}
	return nil
}

// quotasOn asks the mounted file system itself whether project quotas are enforced.
func quotasOn(device string) bool {
	var state [128]byte // struct fs_quota_stat: version, then flags at 2
	name, err := unix.BytePtrFromString(device)
	if err != nil {
		return false
	}
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL, uintptr(quotaGetStateCmd<<8|quotaProject),
		uintptr(unsafe.Pointer(name)), 0, uintptr(unsafe.Pointer(&state[0])), 0, 0)
	if errno != 0 {
		return false
	}
	return binary.NativeEndian.Uint16(state[2:])&quotaEnforced != 0
}

// QuotaSupported says why a pool on this kernel would have no project quotas.
func QuotaSupported() error {
	fd, err := unix.Fsopen("xfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("this kernel doesn't show XFS (%v): %w", err, errdefs.ErrNotImplemented)
	}
	defer unix.Close(fd)
	// An XFS built without quotas learns that only when it mounts, but has no
	// statistics of them.
	if _, err := os.Stat("/proc/fs/xfs/xqm"); err != nil {
		return fmt.Errorf("this kernel's XFS has no quotas: %w", errdefs.ErrNotImplemented)
	}
	return nil
}
