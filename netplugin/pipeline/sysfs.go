package pipeline

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// sysfs is a file system of that kind which shows the links of one network namespace. It
// is mounted nowhere, so there is no mount to leave behind, to propagate or to hide
// another. What /sys shows can't be used: that is the namespace of whoever mounted it,
// which isn't ours under nsenter or ip netns exec.
type sysfs struct {
	root  *os.File
	netns uint64 // the namespace's number: no two of one boot ever share one
}

// inSysfs calls f with the sysfs of a network namespace, of the caller's own if ns is nil.
// The calling goroutine is inside meanwhile.
func inSysfs(ns *os.File, f func(*sysfs) error) error {
	return inside(ns, func() error {
		s, err := openSysfs()
		if err != nil {
			return err
		}
		defer s.root.Close()
		return f(s)
	})
}

// inside calls f in a network namespace. A thread that can't return stays locked to its
// goroutine and ends with it: no other may ever run in the wrong namespace.
func inside(ns *os.File, f func() error) (err error) {
	if ns == nil {
		return f()
	}
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open this thread's network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the container's network namespace: %w", err)
	}
	defer func() {
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, fmt.Errorf("return from the container's network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
	}()
	return f()
}

// openSysfs shows the calling thread's namespace.
func openSysfs() (*sysfs, error) {
	root, err := mountSysfs()
	if err != nil {
		if errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("a sysfs of this network namespace: %w (%w); run as root", errdefs.ErrPermissionDenied, err)
		}
		return nil, fmt.Errorf("a sysfs of this network namespace: %w (%w); run on Linux 5.14 or newer", errdefs.ErrNotImplemented, err)
	}
	cookie, err := netnsCookie()
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("the number of a network namespace: %w (%w); run on Linux 5.14 or newer", errdefs.ErrNotImplemented, err)
	}
	return &sysfs{root, cookie}, nil
}

func mountSysfs() (*os.File, error) {
	fd, err := unix.Fsopen("sysfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fd)
	if err := unix.FsconfigCreate(fd); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	root, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	return os.NewFile(uintptr(root), "sysfs"), nil
}

func netnsCookie() (uint64, error) {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(s)
	cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return cookie, os.NewSyscallError("getsockopt", err)
}

// link is a device as sysfs has it.
type link struct {
	name   string
	index  int
	queues []string // "rx-0" and so on
}

// link finds a device; errdefs.ErrNotFound if there is none of that name.
func (s *sysfs) link(name string) (*link, error) {
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
		return nil, fmt.Errorf("%q is no link's name: %w", name, errdefs.ErrInvalidArgument)
	}
	text, err := s.read("class/net/" + name + "/ifindex")
	if err != nil {
		return nil, err
	}
	index, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("ifindex of %s: %w", name, err)
	}
	dir, err := s.open("class/net/"+name+"/queues", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("queues of %s: %w", name, err)
	}
	names = slices.DeleteFunc(names, func(q string) bool { return !strings.HasPrefix(q, "rx-") })
	slices.Sort(names)
	return &link{name, index, names}, nil
}

func (l *link) file(queue string) string {
	return "class/net/" + l.name + "/queues/" + queue + "/rps_cpus"
}

// mask are the CPUs that a queue's packets are spread over; none by default.
func (s *sysfs) mask(l *link, queue string) ([]int, error) {
	text, err := s.read(l.file(queue))
	if err != nil {
		return nil, err
	}
	return parseMask(text)
}

func (s *sysfs) setMask(l *link, queue string, cpus []int) error {
	f, err := s.open(l.file(queue), unix.O_WRONLY)
	if err != nil {
		return err
	}
	_, err = f.WriteString(formatMask(cpus))
	err = errors.Join(err, f.Close())
	if errors.Is(err, unix.EOVERFLOW) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("packets of %s, queue %s, can't be spread over CPUs %s: %w (%w)", l.name, queue, FormatList(cpus), errdefs.ErrInvalidArgument, err)
	}
	return wrap(err)
}

func (s *sysfs) read(path string) (string, error) {
	f, err := s.open(path, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text := make([]byte, maxCPUs) // more than any attribute read here
	n, err := f.Read(text)
	return string(text[:n]), wrap(err)
}

func (s *sysfs) open(path string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(s.root.Fd()), path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, wrap(&fs.PathError{Op: "open", Path: path, Err: err})
	}
	return os.NewFile(uintptr(fd), path), nil
}

// wrap tells a device that is gone, even after its file was opened, from other errors.
func wrap(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("sysfs: %w (%w)", errdefs.ErrNotFound, err)
	default:
		return fmt.Errorf("sysfs: %w", err)
	}
}
