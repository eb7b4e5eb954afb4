// Package part is the process of a part: it makes a cube ahead, waits to be claimed, and
// is then the shim of the container. The protocol of its directory is in package claim.
package part

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	stock "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/cgroup"
	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/cube"
	"github.com/peregrine-dev/peregrine/shim/pool/priority"
	"github.com/peregrine-dev/peregrine/shim/task"
)

// Config says what a part is made of.
type Config struct {
	Dir  string // its directory, absolute
	Cold bool   // it is claimed already, with the listener as descriptor 3
	// Init is the sealed program of cubes, nil to copy the one at InitPath.
	Init     *os.File
	InitPath string
	Fallback string // runtime of what can't run natively
}

// patience is how long a claimed part waits for its container.
const patience = time.Minute

// part is the process.
type part struct {
	Config
	dir    *os.File // follows the directory wherever it is moved
	events *events
	stop   chan struct{}
	once   sync.Once

	native *task.Native

	mu       sync.Mutex
	claimed  *claim.Request // nil until somebody has claimed the part
	used     bool           // a container was asked for
	leaving  bool           // nobody is to ask any more
	services *claimedServices
}

// claimedServices are what a part has once it knows whose it is.
type claimedServices struct {
	ctx       context.Context
	publisher shim.Publisher
	sd        shutdown.Service
	fallback  taskapi.TTRPCTaskService
}

// Run is a part, until its container is deleted or ctx is done while there is none.
func Run(ctx context.Context, c Config) (err error) {
	p := &part{Config: c, events: newEvents(), stop: make(chan struct{})}
	if p.dir, err = os.Open(c.Dir); err != nil {
		return err
	}
	defer p.dir.Close()
	defer func() { err = errors.Join(err, p.remove()) }()
	listener, err := p.listen()
	if err != nil {
		return err
	}
	defer listener.Close()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	children := make(chan os.Signal, 32)
	signal.Notify(children, unix.SIGCHLD)
	inherit()
	go reap(children)
	builder, err := c.builder()
	if err != nil {
		return err
	}
	defer builder.Close()
	host, err := cgroup.Warm()
	if err != nil {
		return err
	}
	p.native = task.NewNative(filepath.Dir(p.profile()), host, builder, p.events.send, p.stop)
	p.native.Dir = fmt.Sprintf("/proc/self/fd/%d", p.dir.Fd())
	defer p.native.Drop()
	router := &task.Router{
		Native: p.native, Binary: c.Fallback, Stop: p.end, Fallback: p.fallback,
		Count: func(reason string) {
			if err := claim.Count(p.profile(), claim.Fallback+"/"+slug(reason)); err != nil {
				log.G(ctx).WithError(err).Warn("count a fall-back")
			}
		},
	}
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()), ttrpc.WithUnaryServerInterceptor(p.inNamespace))
	if err != nil {
		return err
	}
	task.Register(server, &first{router, p})
	if c.Cold {
		if err := p.writePid(); err != nil {
			return err
		}
	} else if err := p.prepare(); err != nil {
		return err
	}
	return p.serve(ctx, server, &knock{Listener: listener, part: p})
}

// prepare does ahead whatever can be, and enters the pool.
func (p *part) prepare() error {
	if err := p.native.Prepare(); err != nil {
		return err
	}
	if err := rehearse(); err != nil {
		return err
	}
	if err := p.writePid(); err != nil {
		return err
	}
	debug.FreeOSMemory()
	// It was built behind all else on the host; what runs in the container is not to be.
	if err := priority.Normal(os.Getpid()); err != nil {
		return err
	}
	building, err := p.path()
	if err != nil {
		return err
	}
	ready := filepath.Join(filepath.Dir(filepath.Dir(building)), claim.Ready, filepath.Base(building))
	if err := os.Rename(building, ready); err != nil {
		return fmt.Errorf("enter the pool: %w", err)
	}
	return nil
}

// serve answers until the part is to end.
func (p *part) serve(ctx context.Context, server *ttrpc.Server, listener *knock) error {
	if p.Cold {
		p.knocked() // before containerd is heard, as with the claimer's knock
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(context.WithoutCancel(ctx), listener) }()
	interrupted := ctx.Done()
	for {
		select {
		case <-interrupted:
			// It ends with the container, not before.
			p.endIdle()
			interrupted = nil
		case err := <-failed:
			return err
		case <-p.stop:
			return p.leave(server)
		}
	}
}

// leave closes everything down: nothing is left to serve.
func (p *part) leave(server *ttrpc.Server) error {
	const longest = time.Second
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	err := server.Shutdown(ctx)
	if err != nil {
		err = server.Close()
	}
	p.mu.Lock()
	s := p.services
	p.mu.Unlock()
	if s == nil {
		return err
	}
	if s.fallback != nil {
		s.sd.Shutdown()
		<-s.sd.Done()
	}
	<-p.events.done
	return errors.Join(err, s.publisher.Close())
}

func (p *part) end() { p.once.Do(func() { close(p.stop) }) }

// endIdle ends the part unless there is a container, or was.
func (p *part) endIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.used {
		p.leaving = true
		p.end()
	}
}

// knocked is called at the first connection: somebody claimed the part, and has to make
// use of it. containerd is on its way: what it will ask for is begun.
func (p *part) knocked() {
	if r, err := p.own(); err == nil {
		p.native.Anticipate(p.services.ctx, r.Namespace, r.ID, r.Bundle)
	}
	timer := time.NewTimer(patience)
	go func() {
		defer timer.Stop()
		select {
		case <-timer.C:
			p.endIdle()
		case <-p.stop:
		}
	}()
}

// knock is a listener that tells of the first connection.
type knock struct {
	net.Listener
	part *part
	once sync.Once
}

func (k *knock) Accept() (net.Conn, error) {
	conn, err := k.Listener.Accept()
	if err == nil && !k.part.Cold {
		k.once.Do(k.part.knocked)
	}
	return conn, err
}

// first is the service, which learns with the first container whose part this is.
type first struct {
	*task.Router
	part *part
}

// Create makes a container.
func (f *first) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if _, err := f.part.own(); err != nil {
		return nil, err
	}
	if err := f.part.use(r.Bundle); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return f.Router.Create(ctx, r)
}

// inNamespace has a call be of containerd's namespace: 1.6 says it when it starts a shim
// only.
func (p *part) inNamespace(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	if _, ok := namespaces.Namespace(ctx); !ok {
		if r, err := p.own(); err == nil {
			ctx = namespaces.WithNamespace(ctx, r.Namespace)
		}
	}
	return method(ctx, unmarshal)
}

// use notes that there is a container.
func (p *part) use(bundle string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leaving {
		return fmt.Errorf("this shim waited for its container in vain and ends: %w", errdefs.ErrUnavailable)
	}
	if !p.used {
		p.used = true
		openLog(bundle)
	}
	return nil
}

// own reads who claimed the part, once.
func (p *part) own() (*claim.Request, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.claimed != nil {
		return p.claimed, nil
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/%s", p.dir.Fd(), claim.ClaimFile))
	if err != nil {
		return nil, fmt.Errorf("read who claimed this shim: %w", err)
	}
	var r claim.Request
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("read who claimed this shim: %w", err)
	}
	if r.Debug {
		if err := log.SetLevel("debug"); err != nil {
			return nil, err
		}
	}
	adjustOOMScore(r.Parent)
	publisher, err := shim.NewPublisher(r.TTRPCAddress)
	if err != nil {
		return nil, fmt.Errorf("connect to containerd's events: %w", err)
	}
	ctx := namespaces.WithNamespace(context.Background(), r.Namespace)
	p.services = &claimedServices{ctx: ctx, publisher: publisher}
	p.claimed = &r
	go p.events.forward(ctx, publisher, p.stop)
	return p.claimed, nil
}

// adjustOOMScore has this process, and so its container unless that says otherwise, be
// killed before containerd when memory runs out: as the stock shim has it.
func adjustOOMScore(containerd int) {
	const most = 1000
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", containerd))
	if err != nil {
		return // containerd is gone
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err == nil {
		err = os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(min(score+1, most))), 0)
	}
	if err != nil {
		log.L.WithError(err).Warn("adjust the OOM score")
	}
}

// openLog sends the log where containerd reads it, a fifo of the bundle's, if it does.
func openLog(bundle string) {
	f, err := os.OpenFile(filepath.Join(bundle, "log"), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err == nil {
		log.L.Logger.SetOutput(f)
	}
}

// fallback is the stock shim's service.
func (p *part) fallback() (taskapi.TTRPCTaskService, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.services
	if s.fallback != nil {
		return s.fallback, nil
	}
	ctx, sd := shutdown.WithShutdown(s.ctx)
	service, err := stock.NewTaskService(ctx, unclosed{s.publisher}, sd)
	if err != nil {
		return nil, err
	}
	s.fallback, s.sd = service, sd
	return service, nil
}

// unclosed is a publisher that is somebody else's to close.
type unclosed struct{ shim.Publisher }

func (unclosed) Close() error { return nil }

func (c Config) builder() (*cube.Builder, error) {
	if c.Init != nil {
		return cube.Inherited(c.Init)
	}
	return cube.NewBuilder(c.InitPath)
}

// listen makes or takes over the socket.
func (p *part) listen() (net.Listener, error) {
	if p.Cold {
		f := os.NewFile(3, claim.Socket)
		defer f.Close()
		return net.FileListener(f)
	}
	// By way of the open directory the path is short enough for any.
	unix.Umask(0o077)
	defer unix.Umask(0o022)
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", p.dir.Fd(), claim.Socket))
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return l, nil
}

// path is where the part's directory is now.
func (p *part) path() (string, error) {
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", p.dir.Fd()))
}

// profile is the directory the part's is in, two up.
func (p *part) profile() string {
	return filepath.Dir(filepath.Dir(p.Dir))
}

// remove removes the directory.
func (p *part) remove() error {
	path, err := p.path()
	if err != nil || strings.HasSuffix(path, " (deleted)") {
		return err
	}
	return os.RemoveAll(path)
}

// writePid tells others which process the part is.
func (p *part) writePid() error {
	began, err := task.StartTime(os.Getpid())
	if err != nil {
		return err
	}
	line := fmt.Sprintln(os.Getpid(), began)
	return os.WriteFile(fmt.Sprintf("/proc/self/fd/%d/%s", p.dir.Fd(), claim.PidFile), []byte(line), 0o600)
}

// reap reaps children until the process ends.
func reap(children <-chan os.Signal) {
	for range children {
		if err := reaper.Reap(); err != nil {
			log.L.WithError(err).Error("reap children")
		}
	}
}

// slug makes a reason a file's name.
func slug(reason string) string {
	return strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, reason), "-")
}

// inherit has the processes of containers begin with no signal ignored, as runc's do: these two
// Go leaves as they were when the daemon was started by nohup, for one.
func inherit() {
	for _, s := range []os.Signal{unix.SIGHUP, unix.SIGINT} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s) // exec undoes what is caught
		}
	}
}
