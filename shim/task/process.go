package task

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/stdio"
)

// process is the init of a container, or an exec.
type process struct {
	id    string
	stdio stdio.Config

	// op is held by whoever changes the process: it starts and is deleted once.
	op sync.Mutex

	mu         sync.Mutex
	status     tasktypes.Status
	pid        int
	exitStatus uint32
	exitedAt   time.Time
	io         *stdio.IO
	launched   launched // what starts it; nil before it was created
	done       chan struct{}
}

// launched is a process one step from its program.
type launched interface {
	Start() error
	Signal(unix.Signal) error
	Close() error
}

func newProcess(id string, c stdio.Config) *process {
	return &process{id: id, stdio: c, status: tasktypes.Status_CREATED, done: make(chan struct{})}
}

// created notes what was made for it.
func (p *process) created(pid int, l launched, io *stdio.IO) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pid, p.launched, p.io = pid, l, io
}

func (p *process) state() (tasktypes.Status, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status, p.pid
}

func (p *process) setStatus(s tasktypes.Status) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status != tasktypes.Status_STOPPED {
		p.status = s
	}
}

func (p *process) exit() (status uint32, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exitStatus, p.exitedAt
}

// exited notes the end of it.
func (p *process) exited(e runc.Exit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status == tasktypes.Status_STOPPED {
		return
	}
	p.status, p.exitStatus, p.exitedAt = tasktypes.Status_STOPPED, uint32(e.Status), e.Timestamp
	if p.io != nil {
		p.io.Exited()
	}
	close(p.done)
}

// wait waits for its end.
func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// kill sends a signal to it alone.
func (p *process) kill(signal unix.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid == 0 {
		return fmt.Errorf("process %s isn't started: %w", p.id, errdefs.ErrFailedPrecondition)
	}
	if p.status == tasktypes.Status_STOPPED {
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
	err := p.launched.Signal(signal)
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
	return err
}

// drain waits for the rest of its output, and lets go of the streams. What a process
// left behind may hold them for ever: it is not waited for.
func (p *process) drain(ctx context.Context) error {
	p.mu.Lock()
	io, l := p.io, p.launched
	p.io, p.launched = nil, nil
	p.mu.Unlock()
	if l != nil {
		l.Close()
	}
	if io == nil {
		return nil
	}
	const longest = 10 * time.Second // as the stock shim
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	_ = io.Wait(ctx)
	return io.Close()
}

func (p *process) closeStdin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.io == nil {
		return nil
	}
	return p.io.CloseStdin()
}

func (p *process) resize(width, height uint16) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.io == nil {
		return nil
	}
	return p.io.Resize(width, height)
}
