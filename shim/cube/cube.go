// Package cube is the shim's side of a container: it makes cubes, has an init turn one
// into the container, starts that, and brings further processes in. The other side is
// package initproc.
package cube

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/initproc"
	"github.com/peregrine-dev/peregrine/shim/plan"
)

// Builder makes cubes and processes from one program.
type Builder struct {
	program *os.File // sealed, and never 0 to 3
	null    *os.File
}

// NewBuilder copies the program flashcube-init to memory that nobody can write to, so
// that no container can reach its file (CVE-2019-5736). Close it in the end.
func NewBuilder(path string) (*Builder, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("the init of containers is missing, reinstall it: %w", err)
	}
	defer f.Close()
	program, err := sealed("flashcube-init", unix.MFD_EXEC, f)
	if err != nil {
		return nil, fmt.Errorf("copy %s: %w", path, err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(err, program.Close())
	}
	return &Builder{program, null}, nil
}

// Inherited is NewBuilder of a program that is in such memory already, and takes it over.
func Inherited(program *os.File) (*Builder, error) {
	fd, err := unix.FcntlInt(program.Fd(), unix.F_DUPFD_CLOEXEC, firstFD)
	if err != nil {
		return nil, err
	}
	program.Close()
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&seals4 != seals4 {
		unix.Close(fd)
		return nil, fmt.Errorf("%s is not sealed: %w", program.Name(), errdefs.ErrInvalidArgument)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &Builder{os.NewFile(uintptr(fd), program.Name()), null}, nil
}

// Close lets go of the program; what was built stays.
func (b *Builder) Close() error { return errors.Join(b.program.Close(), b.null.Close()) }

const (
	// firstFD keeps a descriptor away from those that a child gets.
	firstFD = 10
	seals4  = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
)

// sealed copies r to a sealed memfd.
func sealed(name string, flags int, r io.Reader) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|flags)
	if err == unix.EINVAL { // before Linux 6.3 memory is executable without being asked
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if fd < firstFD {
		high, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, firstFD)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		f.Close()
		f = os.NewFile(uintptr(high), name)
	}
	if _, err := io.Copy(f, r); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals4); err != nil {
		return nil, errors.Join(fmt.Errorf("seal: %w", err), f.Close())
	}
	return f, nil
}

// Cube is namespaces made ahead, with nobody in them: what an init joins.
type Cube struct {
	// Namespaces are open by their types, CLONE_NEW*, until Close.
	Namespaces map[int]*os.File
}

// types are the namespaces of a cube. A pid namespace can't be made ahead: it ends with
// the first process in it.
var types = []struct {
	flag int
	name string
}{
	{unix.CLONE_NEWNS, "mnt"},
	{unix.CLONE_NEWIPC, "ipc"},
	{unix.CLONE_NEWUTS, "uts"},
	{unix.CLONE_NEWNET, "net"},
}

// Cube makes one. Whoever reaps the children of this process reaps its maker.
func (b *Builder) Cube() (_ *Cube, err error) {
	var flags uintptr
	for _, t := range types {
		flags |= uintptr(t.flag)
	}
	maker, err := b.launch([]string{"cube"}, flags, nil, -1)
	if err != nil {
		return nil, fmt.Errorf("make a cube: %w", err)
	}
	defer maker.Close() // which ends it
	if err := maker.Ready(); err != nil {
		return nil, fmt.Errorf("make a cube: %w", err)
	}
	c := &Cube{map[int]*os.File{}}
	for _, t := range types {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", maker.Pid, t.name))
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("make a cube: %w", err)
		}
		c.Namespaces[t.flag] = f
	}
	return c, nil
}

// Close lets go of the namespaces: those that nobody joined are gone.
func (c *Cube) Close() {
	for _, f := range c.Namespaces {
		f.Close()
	}
}

// Process is a child of this process that becomes the program of a container. What
// becomes of it is one caller's to say; it is not for concurrent use. Whoever reaps the
// children of this process learns of its end.
type Process struct {
	Pid    int
	Pidfd  *os.File // open until Close
	socket int
}

// Init starts the init of a container, in new namespaces (CLONE_NEW*): with a mount
// namespace among them it makes its own cube, else its plan has one to join. pidns, if not
// nil, is of the pid namespace to begin in. cgroup is the directory of a cgroup v2 to
// begin in, or -1.
func (b *Builder) Init(namespaces uintptr, pidns *os.File, cgroup int) (*Process, error) {
	args := []string{"init"}
	if namespaces&unix.CLONE_NEWNS != 0 {
		args = append(args, initproc.OwnCube)
	}
	if namespaces&unix.CLONE_NEWNET != 0 {
		args = append(args, initproc.OwnNetwork)
	}
	p, err := b.launch(args, namespaces, pidns, cgroup)
	if err != nil {
		return nil, fmt.Errorf("start the container's init: %w", err)
	}
	return p, nil
}

// Ready waits until an init takes its plan. It comes before EnterCgroups and CreateInit.
func (p *Process) Ready() error {
	text, fds, err := receive(p.socket)
	closeAll(fds)
	if err != nil {
		return fmt.Errorf("wait for a process to begin: %w", err)
	}
	if len(text) != 1 || text[0] != initproc.Ready {
		return fmt.Errorf("wait for a process to begin: %w", decodeReply(text))
	}
	return nil
}

// Exec starts what becomes a further process of a container. pidns is a file of the pid
// namespace to begin in, or a pidfd of a process that is there; nil: this process's.
func (b *Builder) Exec(pidns *os.File, cgroup int) (*Process, error) {
	p, err := b.launch([]string{"exec"}, 0, pidns, cgroup)
	if err != nil {
		return nil, fmt.Errorf("start a process: %w", err)
	}
	return p, nil
}

// launch starts the init program as a child.
func (b *Builder) launch(args []string, namespaces uintptr, pidns *os.File, cgroup int) (_ *Process, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pair[1])
	defer func() {
		if err != nil {
			unix.Close(pair[0])
		}
	}()
	if pidns != nil {
		restore, err := enterPidns(pidns)
		if err != nil {
			return nil, err
		}
		defer restore()
	}
	pidfd := -1
	attr := &syscall.SysProcAttr{Cloneflags: namespaces, Setsid: true, PidFD: &pidfd}
	if cgroup >= 0 {
		attr.UseCgroupFD, attr.CgroupFD = true, cgroup
	}
	null := b.null.Fd()
	pid, err := syscall.ForkExec(fmt.Sprintf("/proc/self/fd/%d", b.program.Fd()), append([]string{"flashcube-init"}, args...), &syscall.ProcAttr{
		// Preempted asynchronously, the signal's return would go through the container's
		// seccomp filter.
		Env:   []string{"GODEBUG=asyncpreemptoff=1", "GOMAXPROCS=1"},
		Files: []uintptr{null, null, null, uintptr(pair[1])},
		Dir:   "/",
		Sys:   attr,
	})
	if err != nil {
		return nil, err
	}
	return &Process{pid, os.NewFile(uintptr(pidfd), "pidfd"), pair[0]}, nil
}

// enterPidns has children of this thread, and of it alone, begin in a pid namespace.
func enterPidns(pidns *os.File) (restore func(), err error) {
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/pid")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	if err := unix.Setns(int(pidns.Fd()), unix.CLONE_NEWPID); err != nil {
		own.Close()
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("join the pid namespace: %w", err)
	}
	return func() {
		defer own.Close()
		// A thread that can't go back is not used again: it ends with its goroutine.
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWPID) == nil {
			runtime.UnlockOSThread()
		}
	}, nil
}

// EnterCgroups has an init enter cgroups by their files (see cgroup.Cgroup.Tasks), which
// stay the caller's. It comes before CreateInit.
func (p *Process) EnterCgroups(files []*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	if err := sendFDs(p.socket, initproc.Enter, fds); err != nil {
		return err
	}
	_, err := answer(p.socket)
	return err
}

// Join has an init enter namespaces, in this order; files are what joins name, and stay
// the caller's. It comes before CreateInit.
func (p *Process) Join(joins []plan.Join, files []*os.File) error {
	_, err := p.create(initproc.Join, joins, files)
	return err
}

// CreateInit has an init become a container, up to its program. files are what the plan
// names; they stay the caller's. console is the master of the container's terminal if
// it has one, and the caller's to close.
func (p *Process) CreateInit(c *plan.Container, files []*os.File) (console *os.File, err error) {
	return p.create(initproc.Create, c, files)
}

// CreateExec is CreateInit of a further process.
func (p *Process) CreateExec(e *plan.Exec, files []*os.File) (console *os.File, err error) {
	return p.create(initproc.Exec, e, files)
}

func (p *Process) create(kind byte, plan any, files []*os.File) (*os.File, error) {
	if err := send(p.socket, kind, plan, files); err != nil {
		return nil, err
	}
	return answer(p.socket)
}

// Start runs the program. Its failure to run is the error.
func (p *Process) Start() error {
	if err := retry(func() error { return unix.Sendmsg(p.socket, []byte{initproc.Start}, nil, nil, unix.MSG_NOSIGNAL) }); err != nil {
		return fmt.Errorf("start: the process is gone: %w", err)
	}
	// execve closes the other end.
	text, fds, err := receive(p.socket)
	closeAll(fds)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	return decodeReply(text)
}

// Close lets go of the process: one whose program doesn't run yet ends.
func (p *Process) Close() error { return errors.Join(unix.Close(p.socket), p.Pidfd.Close()) }

// Signal sends a signal. To a process that has ended it is ESRCH; its pid may be
// another's by then.
func (p *Process) Signal(signal unix.Signal) error {
	err := unix.PidfdSendSignal(int(p.Pidfd.Fd()), signal, nil, 0)
	return os.NewSyscallError("pidfd_send_signal", err)
}

// answer is the init's reply, with a file or without.
func answer(socket int) (*os.File, error) {
	text, fds, err := receive(socket)
	if err != nil {
		return nil, fmt.Errorf("the container's init ended: %w", err)
	}
	if err := decodeReply(text); err != nil {
		closeAll(fds)
		return nil, err
	}
	if len(fds) == 0 {
		return nil, nil
	}
	closeAll(fds[1:])
	return os.NewFile(uintptr(fds[0]), "console"), nil
}

// InitError is what went wrong in the container's init.
type InitError struct {
	Text  string
	Errno syscall.Errno // 0: no system call's
}

func (e *InitError) Error() string { return e.Text }

// Unwrap gives the system call's error, if it was one.
func (e *InitError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

func decodeReply(text []byte) error {
	var r plan.Reply
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("decode the init's reply: %w", err)
	}
	if r.Error == "" {
		return nil
	}
	return &InitError{r.Error, syscall.Errno(r.Errno)}
}

// maxFiles is how many descriptors go with a message (SCM_MAX_FD), but for the plan.
const maxFiles = 253 - 1

func send(socket int, kind byte, p any, files []*os.File) error {
	if len(files) > maxFiles {
		return fmt.Errorf("%d mounts and files at once: %w", len(files), errdefs.ErrNotImplemented)
	}
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode the plan: %w", err)
	}
	fd, err := unix.MemfdCreate("plan", unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = unix.MemfdCreate("plan", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return fmt.Errorf("memfd_create: %w", err)
	}
	memory := os.NewFile(uintptr(fd), "plan")
	defer memory.Close()
	if _, err := memory.Write(text); err != nil {
		return fmt.Errorf("write the plan: %w", err)
	}
	fds := []int{fd}
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	return sendFDs(socket, kind, fds)
}

func sendFDs(socket int, kind byte, fds []int) error {
	err := retry(func() error {
		return unix.Sendmsg(socket, []byte{kind}, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
	})
	if err != nil {
		return fmt.Errorf("send the plan: the process is gone: %w", err)
	}
	return nil
}

// receive is one packet; io.EOF is the other end closed.
func receive(socket int) (text []byte, fds []int, err error) {
	text = make([]byte, 64<<10)
	oob := make([]byte, unix.CmsgSpace(4*4))
	var n, oobn int
	err = retry(func() (err error) {
		n, oobn, _, _, err = unix.Recvmsg(socket, text, oob, unix.MSG_CMSG_CLOEXEC)
		return err
	})
	if err == unix.ECONNRESET || err == nil && n == 0 {
		return nil, nil, io.EOF
	}
	if err != nil {
		return nil, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, nil, err
	}
	for _, m := range messages {
		more, err := unix.ParseUnixRights(&m)
		if err != nil {
			return nil, fds, err
		}
		fds = append(fds, more...)
	}
	return text[:n], fds, nil
}

func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
