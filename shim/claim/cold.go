package claim

import (
	"strconv"
	"syscall"
)

// backlog is how many connections wait until a cold shim accepts. containerd makes one.
const backlog = 64

// startCold starts a shim for a request and doesn't wait for it. It returns the
// directory of the part.
func (c *Claimer) startCold(r *Request) (string, error) {
	part, err := c.makeCold()
	if err != nil {
		return "", err
	}
	if err := c.launch(part, r); err != nil {
		removeFlat(part)
		return "", err
	}
	return part, nil
}

// makeCold makes the directory of a cold part, and those above it on a host without a
// pool.
func (c *Claimer) makeCold() (string, error) {
	prefix := c.Dir + "/" + Claimed + "/" + ColdPrefix + strconv.Itoa(syscall.Getpid()) + "-"
	for {
		var now syscall.Timeval
		if err := syscall.Gettimeofday(&now); err != nil {
			return "", failed("read", "the clock", err)
		}
		part := prefix + strconv.FormatInt(now.Sec*1e6+now.Usec, 16)
		switch err := syscall.Mkdir(part, 0o700); err {
		case nil:
			return part, nil
		case syscall.EEXIST: // the clock went back; it won't stay there
		case syscall.ENOENT:
			if err := Prepare(c.Dir); err != nil {
				return "", err
			}
		default:
			return "", failed("make the directory", part, err)
		}
	}
}

func (c *Claimer) launch(part string, r *Request) error {
	shim := c.Shim()
	if shim == "" {
		return failed("find", ShimBinary, Text("install it beside this program or in the PATH of containerd"))
	}
	listener, err := listen(part + "/" + Socket)
	if err != nil {
		return err
	}
	defer syscall.Close(listener)
	if err := replaceFile(part+"/"+ClaimFile, r.appendJSON(nil)); err != nil {
		return err
	}
	null, err := open("/dev/null", syscall.O_RDWR, 0)
	if err != nil {
		return failed("open", "/dev/null", err)
	}
	defer syscall.Close(null)
	closeOnExec()
	_, err = syscall.ForkExec(shim, []string{shim, "-dir", part, "-cold"}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   syscall.Environ(),
		Files: []uintptr{uintptr(null), uintptr(null), uintptr(null), uintptr(listener)},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return failed("start", shim, err)
	}
	return nil
}

// listen makes a socket that only root may connect to.
func listen(path string) (fd int, err error) {
	fd, err = syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, failed("make the socket", path, err)
	}
	// The file gets the mode that the socket has when it is bound, less the umask.
	if err = syscall.Fchmod(fd, 0o600); err == nil {
		if err = syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err == nil {
			err = syscall.Listen(fd, backlog)
		}
	}
	if err != nil {
		syscall.Close(fd)
		return -1, failed("listen on", path, err)
	}
	return fd, nil
}

// closeOnExec marks every descriptor but the standard ones to be closed in programs
// started from here: containerd waits until the last copy of our standard output is
// closed, and a caller may have passed on other descriptors.
func closeOnExec() {
	const (
		sysCloseRange     = 436 // the same on every architecture, since kernel 5.9
		closeRangeCloexec = 4   // since 5.11
		last              = 1<<32 - 1
	)
	if _, _, errno := syscall.RawSyscall(sysCloseRange, 3, last, closeRangeCloexec); errno == 0 {
		return
	}
	all, err := names("/proc/self/fd", false)
	if err != nil {
		return
	}
	for _, name := range all {
		if fd, err := strconv.Atoi(name); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
}
