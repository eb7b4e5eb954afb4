package stdio

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/fifo"
	"golang.org/x/sys/unix"
)

// readerTimeout is how long a fifo may be without a reader when it is opened, as in
// containerd-shim-runc-v2.
const readerTimeout = 30 * time.Second

// input is the fifo that the standard input comes from.
type input struct {
	r *os.File
	// w is a write end of our own. With it, the input doesn't end when a client goes
	// away, be it that containerd restarts. Nil when the input isn't a fifo.
	w *os.File
}

// openInput never waits: a read end opens at once without a writer if it doesn't
// block, and a write end opens at once when there is a read end.
func openInput(path string) (*input, error) {
	r, err := open(path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open stdin of the process: %w", err)
	}
	in := &input{r: r}
	if st, err := r.Stat(); err != nil || st.Mode()&fs.ModeNamedPipe == 0 {
		return in, err
	}
	if in.w, err = open(path, unix.O_WRONLY); err != nil {
		r.Close()
		return nil, fmt.Errorf("open stdin of the process: %w", err)
	}
	return in, nil
}

// closeWriter may be called more than once.
func (in *input) closeWriter() error {
	if in.w == nil {
		return nil
	}
	if err := in.w.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close stdin: %w", err)
	}
	return nil
}

func (in *input) close() {
	in.r.Close()
	_ = in.closeWriter() // Closing a fifo has nothing to report.
}

// sink is where an output goes to: a fifo, a pipe or a file.
type sink struct {
	*os.File
	// keep is a read end that nobody reads. With it, a client that goes away doesn't
	// break the fifo: output waits in it, 64 KiB of it, for the next client. Nil when
	// the sink isn't a fifo.
	keep *os.File
	once sync.Once
}

// close may be called more than once. The read end goes last, so that no write can
// find the fifo broken.
func (s *sink) close() {
	s.once.Do(func() {
		s.File.Close()
		if s.keep != nil {
			s.keep.Close()
		}
	})
}

// openSink opens an existing fifo, or an existing file at its end. It returns when
// the fifo has, or had, a reader: one without would lose its content if the process
// is done before the client comes.
func openSink(ctx context.Context, path string) (*sink, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, missing(path, err)
	}
	if st.Mode()&fs.ModeNamedPipe == 0 {
		f, err := open(path, unix.O_WRONLY|unix.O_APPEND)
		if err != nil {
			return nil, err
		}
		return &sink{File: f}, nil
	}
	w, err := open(path, unix.O_WRONLY|unix.O_NONBLOCK)
	if errors.Is(err, unix.ENXIO) {
		// Nobody reads yet. Wait in a way that the context can end.
		wait, cancel := context.WithTimeout(ctx, readerTimeout)
		defer cancel()
		met, err := fifo.OpenFifo(wait, path, unix.O_WRONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("no client reads the fifo %s: %w", path, err)
		}
		defer met.Close()
		return pair(path)
	}
	if err != nil {
		return nil, err
	}
	keep, err := open(path, unix.O_RDONLY)
	if err != nil {
		w.Close()
		return nil, err
	}
	return &sink{File: w, keep: keep}, nil
}

// pair opens both ends of a fifo whose reader may have gone again already.
func pair(path string) (*sink, error) {
	keep, err := open(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	w, err := open(path, unix.O_WRONLY|unix.O_NONBLOCK)
	if err != nil {
		keep.Close()
		return nil, err
	}
	return &sink{File: w, keep: keep}, nil
}

// createLog opens a log file at its end and makes it and its directories when they
// don't exist.
func createLog(path string) (*sink, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &sink{File: f}, nil
}

// open is os.OpenFile, except that the runtime's poller gets only what doesn't block.
// An end of a fifo that is held but never used isn't worth an entry there.
func open(path string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err == nil {
			return os.NewFile(uintptr(fd), path), nil
		}
		if err != unix.EINTR {
			return nil, missing(path, &fs.PathError{Op: "open", Path: path, Err: err})
		}
	}
}

func missing(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: the client must make %s before the process: %w", err, path, errdefs.ErrNotFound)
	}
	return err
}

// end says which end of a pipe stays with the shim.
type end int

const (
	ourRead end = iota
	ourWrite
	noneOurs // both are for other processes, ours is the read end
)

// pipe makes a pipe of uid and gid. Only the shim's end doesn't block: the other is
// the process's, and programs don't expect it.
func pipe(uid, gid int, e end) (child, ours *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make a pipe for the process: %w", err)
	}
	c, o := p[1], p[0]
	if e == ourWrite {
		c, o = p[0], p[1]
	}
	if uid != 0 || gid != 0 {
		err = unix.Fchown(c, uid, gid)
	}
	if err == nil && e != noneOurs {
		err = unix.SetNonblock(o, true)
	}
	if err != nil {
		unix.Close(c)
		unix.Close(o)
		return nil, nil, fmt.Errorf("give a pipe to %d:%d: %w", uid, gid, err)
	}
	return os.NewFile(uintptr(c), "process"), os.NewFile(uintptr(o), "shim"), nil
}
