package cube

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// OpenRoot mounts what containerd hands over as a container's root, in no place: the
// mount is held by the file alone, and is gone with the last who uses it. The host never
// sees it. dir is the root in the bundle, for when mounts is empty.
func OpenRoot(mounts []mount.Mount, dir string) (*os.File, error) {
	var root *os.File
	var err error
	switch {
	case len(mounts) == 0:
		root, err = OpenTree(dir, true)
	case len(mounts) == 1 && mounts[0].Type == "bind" && mounts[0].Target == "":
		root, err = bindRoot(mounts[0])
	case len(mounts) == 1 && mounts[0].Type == "overlay" && mounts[0].Target == "":
		root, err = overlayRoot(mounts[0])
	default:
		err = errSlow
	}
	if errors.Is(err, errSlow) {
		root, err = anyRoot(mounts)
	}
	if err != nil {
		return nil, fmt.Errorf("mount the container's root: %w", err)
	}
	// A copy of a shared mount is shared too: what is mounted in the container would
	// appear in the host, and stay there.
	slave := unix.MountAttr{Propagation: unix.MS_SLAVE}
	if err := unix.MountSetattr(int(root.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &slave); err != nil {
		return nil, errors.Join(fmt.Errorf("make the container's root a slave: %w", err), root.Close())
	}
	return root, nil
}

// errSlow is a root that mount(2) knows how to mount.
var errSlow = errors.New("not by the short way")

// OpenTree is a copy of the mount at a path, with those below it or without.
func OpenTree(path string, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, flags)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func bindRoot(m mount.Mount) (*os.File, error) {
	var attr unix.MountAttr
	recursive := false
	for _, o := range m.Options {
		switch o {
		case "bind", "rw":
		case "rbind":
			recursive = true
		case "ro":
			attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
		default:
			return nil, errSlow
		}
	}
	root, err := OpenTree(m.Source, recursive)
	if err != nil {
		return nil, err
	}
	if attr.Attr_set == 0 {
		return root, nil
	}
	if err := unix.MountSetattr(int(root.Fd()), "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return nil, errors.Join(os.NewSyscallError("mount_setattr", err), root.Close())
	}
	return root, nil
}

// overlayRoot mounts an overlay through fsopen(2), which needs no place. Kernels before
// 6.8 can't take lower directories one by one, nor any one string of 256 bytes.
func overlayRoot(m mount.Mount) (_ *os.File, err error) {
	const longest = 255
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, errSlow
	}
	defer unix.Close(fs)
	attr := 0
	for _, o := range append([]string{"source=" + m.Source}, m.Options...) {
		key, value, hasValue := strings.Cut(o, "=")
		if len(value) > longest && key != "lowerdir" {
			return nil, errSlow
		}
		switch {
		case o == "ro":
			attr |= unix.MOUNT_ATTR_RDONLY
		case o == "rw":
		case !hasValue:
			err = unix.FsconfigSetFlag(fs, key)
		case key == "lowerdir":
			if strings.ContainsRune(value, '\\') {
				return nil, errSlow
			}
			for _, dir := range strings.Split(value, ":") {
				if dir == "" || len(dir) > longest { // "::" begins layers of data only
					return nil, errSlow
				}
				if err = unix.FsconfigSetString(fs, "lowerdir+", dir); err != nil {
					break
				}
			}
		default:
			err = unix.FsconfigSetString(fs, key, value)
		}
		if err != nil {
			return nil, errSlow
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, errSlow
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return nil, errSlow
	}
	return os.NewFile(uintptr(fd), "rootfs"), nil
}

// anyRoot mounts the way containerd does, in a mount namespace that lives as long as it
// takes.
func anyRoot(mounts []mount.Mount) (root *os.File, err error) {
	dir, err := os.MkdirTemp("", "flashcube-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir) // here, where nothing is mounted on it
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread, and with it the namespace, ends with the goroutine.
		runtime.LockOSThread()
		root, err = mountAside(mounts, dir)
	}()
	<-done
	return root, err
}

func mountAside(mounts []mount.Mount, dir string) (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return nil, fmt.Errorf("make the mounts slaves: %w", err)
	}
	if err := mount.All(mounts, dir); err != nil {
		return nil, err
	}
	return OpenTree(filepath.Clean(dir), true)
}
