package stdio

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// tty is the master of the process's terminal. It is served by the runtime's poller,
// which is edge-triggered as console.Epoller is and needs no thread of its own.
type tty struct {
	master *os.File
}

// Attach takes the master of the process's terminal, closes it itself whether or not
// it fails, and starts the copying. It is errdefs.ErrFailedPrecondition without
// Config.Terminal, and after Close.
func (s *IO) Attach(master *os.File) error {
	// The poller takes only what doesn't block, and only when the file is made.
	defer master.Close()
	var fd int
	var err error
	conn, cerr := master.SyscallConn()
	if cerr == nil {
		cerr = conn.Control(func(m uintptr) { fd, err = unix.FcntlInt(m, unix.F_DUPFD_CLOEXEC, 0) })
	}
	if err = errors.Join(cerr, err); err == nil {
		if err = unix.SetNonblock(fd, true); err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		return fmt.Errorf("take over the master of the terminal: %w", err)
	}
	t := &tty{master: os.NewFile(uintptr(fd), "master")}

	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.terminal || s.closed || s.tty != nil {
		t.master.Close()
		return fmt.Errorf("attach a terminal: the process has none, has one already, or is gone: %w", errdefs.ErrFailedPrecondition)
	}
	s.tty = t
	if s.exited {
		t.end()
	}
	o := s.outputs[0]
	s.pumps.Go(func() {
		defer s.finish()
		defer o.close()
		defer t.master.Close()
		dst := io.Discard
		if o.dst != nil {
			dst = o.dst
		}
		if err := t.pump(dst, s.dropped(o.name)); err != nil && !errors.Is(err, os.ErrClosed) {
			s.log.WithError(err).Warn("error copying the terminal")
		}
	})
	if s.stdin != nil {
		s.pumps.Go(func() {
			defer s.stdin.close()
			err := relay(t, s.stdin.r, false, nil)
			if err != nil && !errors.Is(err, os.ErrClosed) {
				s.log.WithError(err).Warn("error copying stdin")
			}
			// The end of the input hangs the terminal up: a shell whose client died
			// would otherwise stay for ever.
			t.end()
		})
	}
	return nil
}

// Exited tells the IO that the process has exited. A terminal has no end that could
// be read, so it is copied as far as the process got, and Wait returns then. It does
// nothing for pipes, and may be called more than once, and before Attach.
func (s *IO) Exited() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exited = true
	if s.tty != nil {
		s.tty.end()
	}
}

// Resize sets the size of the terminal, in characters. It does nothing without one.
func (s *IO) Resize(w, h uint16) error {
	s.mu.Lock()
	t := s.tty
	s.mu.Unlock()
	if t == nil {
		return nil
	}
	conn, err := t.master.SyscallConn()
	if err == nil && conn.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: h, Col: w})
	}) != nil {
		return nil // Closed: the process is gone, and nobody looks at the size.
	}
	if err != nil {
		return fmt.Errorf("resize the terminal to %dx%d: %w", w, h, err)
	}
	return nil
}

// end wakes the reader of the master.
func (t *tty) end() {
	_ = t.master.SetReadDeadline(time.Unix(1, 0)) // It fails only if the reader is done.
}

// pump copies the terminal until end is called, and then what is left.
func (t *tty) pump(dst io.Writer, dropped func(error)) error {
	err := relay(dst, t.master, true, dropped)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	conn, err := t.master.SyscallConn()
	if err != nil {
		return err
	}
	b := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(b)
	for {
		var n int
		// A read waits for what the line discipline still has queued (n_tty_read in
		// drivers/tty/n_tty.c), so that EAGAIN and EIO mean that there is no more.
		if err := conn.Control(func(fd uintptr) { n, _ = read(int(fd), b[:]) }); err != nil {
			return ended(err)
		}
		if n == 0 {
			return nil
		}
		if _, err := dst.Write(b[:n]); errors.Is(err, os.ErrClosed) {
			return err
		} else if err != nil {
			dropped(err)
		}
	}
}

// Write types into the terminal. EIO means that nobody has its other side open, and
// the next one may come.
func (t *tty) Write(p []byte) (int, error) {
	conn, err := t.master.SyscallConn()
	if err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) {
		var n int
		var werr error
		if err := conn.Write(func(fd uintptr) bool {
			n, werr = unix.Write(int(fd), p[done:])
			return werr != unix.EAGAIN && werr != unix.EIO
		}); err != nil {
			return done, ended(err)
		}
		if werr != nil && werr != unix.EINTR {
			return done, werr
		}
		done += max(n, 0)
	}
	return done, nil
}
