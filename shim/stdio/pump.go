package stdio

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// spliceMax is what one splice asks for: as much as a pipe can be made to hold.
	spliceMax = 1 << 20
	// bufferSize is what one read takes where splicing isn't possible.
	bufferSize = 16 << 10
)

// buffers holds what buffered copying uses while data flows. A stream that waits has
// none, and the collector takes those that nobody uses.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// errNoSplice says that the kernel can't splice between two files.
var errNoSplice = errors.New("splice isn't possible")

// pump copies from src until it ends, or one of the files is closed, and then returns
// nil. What dst doesn't take is given to dropped, and the copying goes on; with a nil
// dropped it ends with the error.
func pump(dst fileWriter, src *os.File, dropped func(error)) error {
	err := splice(dst, src)
	if errors.Is(err, errNoSplice) {
		err = relay(dst, src, false, dropped)
	}
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// fileWriter is an *os.File, or something around it.
type fileWriter interface {
	io.Writer
	syscall.Conn
}

// splice moves data from pipe to pipe inside the kernel (splice(2)).
func splice(dst fileWriter, src *os.File) error {
	out, err := dst.SyscallConn()
	if err != nil {
		return err
	}
	in, err := src.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var (
			n    int64
			full bool
			serr error
		)
		// move returns false when src has nothing. EAGAIN doesn't say which side made it.
		move := func(s uintptr) bool {
			full = false
			cerr := out.Control(func(d uintptr) {
				n, serr = unix.Splice(int(s), nil, int(d), nil, spliceMax, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
			})
			if cerr != nil {
				serr = ended(cerr)
			}
			if serr != unix.EAGAIN {
				return true
			}
			full = readable(int(s))
			return full
		}
		if err := in.Read(move); err != nil {
			return ended(err)
		}
		if full {
			if err := out.Write(func(uintptr) bool {
				if err := in.Control(func(s uintptr) { move(s) }); err != nil {
					serr, full = ended(err), false
				}
				return !full
			}); err != nil {
				return ended(err)
			}
		}
		switch {
		case serr == unix.EAGAIN || serr == unix.EINTR:
		case serr == unix.EINVAL || serr == unix.ENOSYS:
			return errNoSplice
		case serr != nil:
			return serr
		case n == 0:
			return nil
		}
	}
}

// readable says that a read wouldn't block, because there is data or an end.
func readable(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0
}

// relay copies through a buffer; see pump. A terminal's master reports EIO while
// nobody has the other side open, which isn't the end: the next one may come.
func relay(dst io.Writer, src *os.File, terminal bool, dropped func(error)) error {
	in, err := src.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var (
			b    *[bufferSize]byte
			n    int
			rerr error
		)
		err := in.Read(func(fd uintptr) bool {
			b = buffers.Get().(*[bufferSize]byte)
			n, rerr = read(int(fd), b[:])
			if rerr == unix.EAGAIN || terminal && rerr == unix.EIO {
				buffers.Put(b)
				b = nil
				return false
			}
			return true
		})
		if b == nil {
			return ended(err)
		}
		if n > 0 {
			_, rerr = dst.Write(b[:n])
			if rerr != nil && dropped != nil && !errors.Is(rerr, os.ErrClosed) {
				dropped(rerr)
				rerr = nil
			}
		}
		buffers.Put(b)
		if rerr != nil || n == 0 {
			return rerr
		}
	}
}

// ended makes os.ErrClosed of what a raw connection says of a closed file: it has an
// error of its own for that, which can't be named. The other one is the deadline.
func ended(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", os.ErrClosed, err)
}

// read is read(2), again when a signal interrupts it.
func read(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}
