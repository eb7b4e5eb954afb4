// Package stdio is the shim's side of a process's standard streams. The process gets
// plain descriptors; the shim copies between them and what containerd named: fifos,
// files, logging binaries, or nothing. It behaves as containerd-shim-runc-v2 does,
// and says where it differs.
//
// # Why the shim copies
//
// The process isn't given the fifo itself, though that would save the copying. A
// reader of the fifo that leaves would kill the process with SIGPIPE; O_NONBLOCK, set
// by a client on an end that it passes on, would show up inside; a process could
// reopen the fifo through /proc/self/fd in the other direction and read what other
// processes of the container print; and a process that isn't root couldn't reopen it
// at all, so "echo >/dev/stdout" would fail. The same holds for a log file, which
// could also be truncated. A pipe of its own, owned by the container's user, has none
// of that. From pipe to pipe the data is spliced: pages change hands, and the shim
// needs no buffers.
package stdio

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// Config names the streams as containerd's CreateTaskRequest and ExecProcessRequest
// do. Stdout decides for both outputs:
//
//   - a path, or fifo:// and a path: an existing fifo or file; Stderr names another;
//   - file:// and a path: both outputs are appended to that file, which is made;
//   - binary:// or binary-v2:// and a path: both go to a program started for them,
//     with the query as its arguments;
//   - empty: thrown away.
//
// With Terminal there is no standard error. Stdin is a path, or fifo:// and a path.
type Config struct {
	Stdin, Stdout, Stderr string
	Terminal              bool
}

// IO is the streams of one process. The methods may be called by any number of
// goroutines, except for Open, Child, CloseChild, Start and Attach, which come once
// each and in this order.
type IO struct {
	terminal bool
	log      *log.Entry
	child    [3]*os.File
	stdin    *input    // nil: nothing named
	stdinW   *os.File  // our end of the process's standard input
	outputs  []*output // from our ends of its outputs to what containerd named
	logger   *logger   // nil: no logging binary
	pumps    sync.WaitGroup
	running  atomic.Int32  // outputs still being copied
	drained  chan struct{} // closed by finish
	finish   func()        // called when running falls to zero, and by Close

	mu     sync.Mutex
	tty    *tty // nil until Attach
	exited bool
	closed bool
}

// output is one stream on its way out of the process.
type output struct {
	name string
	src  *os.File // what the process prints; nil for a terminal, until Attach
	dst  *sink    // nil: thrown away, which only a terminal needs
}

// Open prepares the shim's side of the streams for the process id of containerd's
// namespace. The pipes are given to uid and gid, on the host, so that the process may
// reopen them. The context bounds the opening, and its logger is kept; with a fifo
// that nobody reads, Open waits for a reader, half a minute at most.
//
// A logging binary is started with [reaper.Default], so the caller must be reaping
// its children through it.
//
// A scheme that isn't known is errdefs.ErrInvalidArgument, a fifo that doesn't exist
// errdefs.ErrNotFound, a fifo without a reader context.DeadlineExceeded. On an error
// nothing is left open.
func Open(ctx context.Context, namespace, id string, c Config, uid, gid int) (_ *IO, err error) {
	s := &IO{terminal: c.Terminal, log: log.G(ctx).WithField("process", id), drained: make(chan struct{})}
	s.finish = sync.OnceFunc(func() { close(s.drained) })
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	scheme, path, u, err := parse(c.Stdout)
	if err != nil {
		return nil, err
	}
	if err := s.openInput(c.Stdin, uid, gid); err != nil {
		return nil, err
	}
	switch scheme {
	case "fifo":
		err = s.openPaths(ctx, path, c.Stderr, uid, gid)
	case "file":
		err = s.openFile(path, uid, gid)
	case "binary", "binary-v2":
		err = s.openLogger(ctx, namespace, id, u, uid, gid)
	default:
		err = fmt.Errorf("unknown STDIO scheme %s: name a fifo, file:// or binary://: %w", scheme, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, err
	}
	if err := s.fillNull(); err != nil {
		return nil, err
	}
	return s, nil
}

// parse splits what containerd says of a stream. A plain path isn't parsed as an
// address: a percent sign in it is a percent sign.
func parse(stream string) (scheme, path string, u *url.URL, err error) {
	if stream == "" || stream[0] == '/' {
		return "fifo", stream, nil, nil
	}
	u, err = url.Parse(stream)
	if err != nil {
		return "", "", nil, fmt.Errorf("unable to parse stdout uri: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if u.Scheme == "" {
		return "fifo", stream, nil, nil
	}
	return u.Scheme, u.Path, u, nil
}

// openInput opens the fifo of the standard input, and the pipe that it goes into.
func (s *IO) openInput(stdin string, uid, gid int) (err error) {
	if stdin == "" {
		return nil
	}
	if s.stdin, err = openInput(strings.TrimPrefix(stdin, "fifo://")); err != nil || s.terminal {
		return err
	}
	s.child[0], s.stdinW, err = pipe(uid, gid, ourWrite)
	return err
}

// openPaths opens two fifos or files.
func (s *IO) openPaths(ctx context.Context, stdout, stderr string, uid, gid int) error {
	stderr = strings.TrimPrefix(stderr, "fifo://")
	if err := s.openOutput(ctx, 1, "stdout", stdout, uid, gid); err != nil || s.terminal {
		return err
	}
	if stderr != "" && stderr == stdout {
		// One pipe for both also keeps the order in which the process wrote.
		s.child[2] = s.child[1]
		return nil
	}
	return s.openOutput(ctx, 2, "stderr", stderr, uid, gid)
}

func (s *IO) openOutput(ctx context.Context, fd int, name, path string, uid, gid int) error {
	if path == "" && !s.terminal {
		return nil
	}
	o := &output{name: name}
	s.outputs = append(s.outputs, o)
	var err error
	if path != "" {
		if o.dst, err = openSink(ctx, path); err != nil {
			return fmt.Errorf("open %s of the process: %w", name, err)
		}
	}
	if !s.terminal {
		s.child[fd], o.src, err = pipe(uid, gid, ourRead)
	}
	return err
}

// openFile opens a log for both outputs.
func (s *IO) openFile(path string, uid, gid int) error {
	o := &output{name: "stdout"}
	s.outputs = append(s.outputs, o)
	var err error
	if o.dst, err = createLog(path); err != nil {
		return fmt.Errorf("open the log of the process: %w", err)
	}
	if !s.terminal {
		s.child[1], o.src, err = pipe(uid, gid, ourRead)
		s.child[2] = s.child[1]
	}
	return err
}

// fillNull gives the process /dev/null where nothing is named.
func (s *IO) fillNull() error {
	if s.terminal {
		return nil
	}
	var null *os.File
	for i, f := range s.child {
		if f != nil {
			continue
		}
		if null == nil {
			var err error
			if null, err = open(os.DevNull, unix.O_RDWR); err != nil {
				return fmt.Errorf("open the process's empty streams: %w", err)
			}
		}
		s.child[i] = null
	}
	return nil
}

// Child returns the descriptors for the process's 0, 1 and 2, which stay the IO's; an
// open file may stand in more than one place. All are nil for a terminal.
func (s *IO) Child() [3]*os.File { return s.child }

// CloseChild closes the shim's copies of what Child returned. Call it as soon as the
// process has them: until then no output ever ends.
func (s *IO) CloseChild() {
	for i, f := range s.child {
		if f != nil {
			f.Close() // The second close of a shared file is harmless.
		}
		s.child[i] = nil
	}
}

// Start starts the copying between the pipes and what containerd named. It does
// nothing for a terminal; see Attach.
func (s *IO) Start() {
	if s.terminal {
		return
	}
	s.running.Store(int32(len(s.outputs)))
	if len(s.outputs) == 0 {
		s.finish()
	}
	for _, o := range s.outputs {
		s.pumps.Go(func() {
			defer s.outputDone()
			defer o.close()
			if err := pump(o.dst, o.src, s.dropped(o.name)); err != nil {
				s.log.WithError(err).Warnf("error copying %s", o.name)
			}
		})
	}
	if s.stdin != nil {
		s.pumps.Go(func() {
			defer s.stdin.close()
			defer s.stdinW.Close()
			if err := pump(s.stdinW, s.stdin.r, nil); err != nil && !errors.Is(err, unix.EPIPE) {
				s.log.WithError(err).Warn("error copying stdin")
			}
		})
	}
}

// dropped returns what the copying does with output that can't be delivered, because
// a disk is full or a logger is dead: say so once, and let the process go on. It
// would otherwise hang as soon as its pipe is full.
func (s *IO) dropped(name string) func(error) {
	var once sync.Once
	return func(err error) {
		once.Do(func() {
			s.log.WithError(err).Warnf("%s of the process can't be delivered and is dropped", name)
		})
	}
}

// outputDone counts an output that has been copied to its end.
func (s *IO) outputDone() {
	if s.running.Add(-1) == 0 {
		s.finish()
	}
}

// CloseStdin says that no more input will come. The process sees the end of its input
// when every writer of the fifo has closed it as well: as long as this isn't called,
// a client may go and another one come. It never fails for a process without one.
func (s *IO) CloseStdin() error {
	if s.stdin == nil {
		return nil
	}
	return s.stdin.closeWriter()
}

// Wait returns nil when all output has been copied, or the context's error when that
// ends first: a process may have left children behind that hold its outputs. It is
// for after Start or Attach and, for a terminal, ends only after Exited.
func (s *IO) Wait(ctx context.Context) error {
	select {
	case <-s.drained:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("output of the process is still held open: %w", ctx.Err())
	}
}

// Close ends all copying, whatever is left to copy, and closes everything. Containerd's
// fifos stay where they are. A logging binary gets half a second to finish by itself,
// and twelve after a SIGTERM. Calls after the first return nil.
func (s *IO) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	t := s.tty
	s.mu.Unlock()

	s.CloseChild()
	if t != nil {
		t.master.Close()
	}
	if s.stdin != nil {
		s.stdin.close()
	}
	if s.stdinW != nil {
		s.stdinW.Close()
	}
	for _, o := range s.outputs {
		o.close()
	}
	s.pumps.Wait()
	s.finish()
	if s.logger != nil {
		return s.logger.stop(s.log)
	}
	return nil
}

func (o *output) close() {
	if o.src != nil {
		o.src.Close()
	}
	if o.dst != nil {
		o.dst.close()
	}
}
