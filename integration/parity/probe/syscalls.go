package main

import (
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// calls are system calls that do nothing, or fail, when they are let through.
var calls = map[string]func() unix.Errno{
	"unshare-user":  func() unix.Errno { return raw(unix.SYS_UNSHARE, unix.CLONE_NEWUSER) },
	"unshare-uts":   func() unix.Errno { return raw(unix.SYS_UNSHARE, unix.CLONE_NEWUTS) },
	"unshare-none":  func() unix.Errno { return raw(unix.SYS_UNSHARE, 0) },
	"clone3":        func() unix.Errno { return raw(unix.SYS_CLONE3, 0, 0) },
	"keyctl":        func() unix.Errno { return raw(unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, ^uintptr(4), 0) },
	"add_key":       func() unix.Errno { return raw(unix.SYS_ADD_KEY, 0, 0, 0, 0, 0) },
	"bpf":           func() unix.Errno { return raw(unix.SYS_BPF, 99, 0, 0) },
	"mount":         func() unix.Errno { return raw(unix.SYS_MOUNT, 0, 0, 0, 0, 0) },
	"umount2":       func() unix.Errno { return raw(unix.SYS_UMOUNT2, 0, 0) },
	"pivot_root":    func() unix.Errno { return raw(unix.SYS_PIVOT_ROOT, 0, 0) },
	"ptrace":        func() unix.Errno { return raw(unix.SYS_PTRACE, 99, 0, 0, 0) },
	"personality-0": func() unix.Errno { return raw(unix.SYS_PERSONALITY, 0) },
	"personality-8": func() unix.Errno { return raw(unix.SYS_PERSONALITY, 8) },
	"personality-1": func() unix.Errno { return raw(unix.SYS_PERSONALITY, 0x1) },
	"socket-vsock":  func() unix.Errno { return raw(unix.SYS_SOCKET, unix.AF_VSOCK, 99, 0) },
	"socket-inet":   func() unix.Errno { return raw(unix.SYS_SOCKET, unix.AF_INET, 99, 0) },
	"reboot":        func() unix.Errno { return raw(unix.SYS_REBOOT, 0, 0, 0, 0) },
	"kexec_load":    func() unix.Errno { return raw(unix.SYS_KEXEC_LOAD, 0, 99, 0, 0) },
	"io_uring":      func() unix.Errno { return raw(unix.SYS_IO_URING_SETUP, 0, 0) },
	"userfaultfd":   func() unix.Errno { return raw(unix.SYS_USERFAULTFD, ^uintptr(0)) },
	"chroot":        func() unix.Errno { return raw(unix.SYS_CHROOT, 0) },
	"setns":         func() unix.Errno { return raw(unix.SYS_SETNS, ^uintptr(0), 0) },
	"unknown":       func() unix.Errno { return raw(999) },
	"getppid":       func() unix.Errno { return raw(unix.SYS_GETPPID) },
	"getpgid-1":     func() unix.Errno { return raw(unix.SYS_GETPGID, 1) },
	"getpgid-2":     func() unix.Errno { return raw(unix.SYS_GETPGID, 2) },
	"getpgid-big":   func() unix.Errno { return raw(unix.SYS_GETPGID, 1<<33|1) },
	"mknod-null":    func() unix.Errno { return mknod("/tmp/null", 1, 3) },
	"mknod-kmsg":    func() unix.Errno { return mknod("/tmp/kmsg", 1, 11) },
	"mknod-disk":    func() unix.Errno { return mknod("/tmp/disk", 7, 0) },
	"memlock":       func() unix.Errno { return raw(unix.SYS_MLOCK, 0, 0) },
	"settime":       func() unix.Errno { return raw(unix.SYS_CLOCK_SETTIME, 0, 0) },
	"syslog":        func() unix.Errno { return raw(unix.SYS_SYSLOG, 99, 0, 0) },
}

func raw(trap uintptr, args ...uintptr) unix.Errno {
	args = append(args, 0, 0, 0, 0, 0, 0)
	_, _, errno := unix.RawSyscall6(trap, args[0], args[1], args[2], args[3], args[4], args[5])
	return errno
}

// mknod makes a device and opens it: the first needs a capability and the second the
// permission of the cgroup.
func mknod(path string, major, minor uint32) unix.Errno {
	unix.Unlink(path)
	if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(major, minor))); err != nil {
		return err.(unix.Errno)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err.(unix.Errno)
	}
	unix.Close(fd)
	return 0
}

// try makes a call on a thread that is not used for anything else.
func try(name string) string {
	call, ok := calls[name]
	if !ok {
		return "the probe does not know this call"
	}
	done := make(chan unix.Errno, 1)
	go func() {
		runtime.LockOSThread()
		done <- call()
	}()
	var errno unix.Errno
	select {
	case errno = <-done:
	case <-time.After(time.Second):
		return "no answer" // the thread is gone
	}
	if errno == 0 {
		return "ok"
	}
	if s := unix.ErrnoName(errno); s != "" {
		return s
	}
	return strconv.Itoa(int(errno))
}

// forkExec runs a program with the descriptors and the environment of this process.
func forkExec(path string) (int, error) {
	env := strings.Split(strings.TrimSuffix(cat("/proc/self/environ"), "\x00"), "\x00")
	return syscall.ForkExec(path, []string{path}, &syscall.ProcAttr{Env: env, Files: []uintptr{0, 1, 2}})
}
