package plasma

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/images"
	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/placement"
	"github.com/peregrine-dev/peregrine/plasma/status"
)

// A world is a service under load whose actors move all the time, while things break.
type world struct {
	*oracle
	t       *testing.T
	p       *harness.Plasma
	service string
	arms    string // directory: see plasma-app's arm
	before  map[placement.Actor]uint64
	asked   atomic.Int64 // moves that were begun
	refused atomic.Int64 // and that were not
	struck  map[string]int

	mu      sync.Mutex
	servers []status.Server // as known last
}

// begin starts a service of so many servers and the load.
func begin(t *testing.T, p *harness.Plasma, image images.Image, name string, count int, more string) *world {
	t.Helper()
	tell(t, p)
	w := &world{t: t, p: p, service: name, arms: filepath.Join(p.Dir(), "arm-"+name), struck: map[string]int{}}
	if err := os.Mkdir(w.arms, 0o700); err != nil {
		t.Fatal(err)
	}
	b := app(t, image, name, "", fmt.Sprintf("env = [\"APP_ARM=/arm\"]\n%s\n[servers]\nmin = %d\nmax = %d\n[limit]\ncpu = 0.6\n[[mounts]]\nsource = %q\ntarget = \"/arm\"\n", more, count, count, w.arms))
	if err := p.Nodes[0].Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	up(t, p.Nodes[0], name, count)
	w.look(t.Context())
	var clients []*client
	for _, n := range p.Nodes {
		clients = append(clients, dial(t, n, name))
	}
	w.before = w.epochs()
	w.oracle = watchOver(t, clients...)
	return w
}

// tell has the logs of plasmads shown when the test fails, without what etcd says.
func tell(t *testing.T, p *harness.Plasma) {
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, n := range p.Nodes {
			text, err := os.ReadFile(n.Log)
			if err != nil {
				continue
			}
			var lines []string
			for line := range strings.Lines(string(text)) {
				if !strings.Contains(line, "etcd: ") {
					lines = append(lines, line)
				}
			}
			t.Logf("%s, without etcd:\n%s", n.Config.Node, strings.Join(lines[max(0, len(lines)-60):], ""))
		}
	})
}

// look notes which servers there are.
func (w *world) look(ctx context.Context) {
	for _, n := range w.p.Nodes {
		s, err := serviceOf(ctx, n, w.service)
		if err != nil {
			continue
		}
		w.mu.Lock()
		w.servers = s.Servers
		w.mu.Unlock()
		return
	}
}

func (w *world) anyServer() status.Server {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.servers[rand.IntN(len(w.servers))]
}

func (w *world) anyNode() *harness.PlasmaNode { return w.p.Nodes[rand.IntN(len(w.p.Nodes))] }

// keepMoving moves actors about until ctx is done. A move that can't begin is the next one's.
func (w *world) keepMoving(ctx context.Context, movers int) (wait func()) {
	var g sync.WaitGroup
	all := w.actors()
	for range movers {
		g.Go(func() {
			for ctx.Err() == nil {
				a, to := all[rand.IntN(len(all))], w.anyServer()
				short, cancel := context.WithTimeout(ctx, 5*time.Second)
				err := w.anyNode().Do(short, func(ctx context.Context, c api.ClusterClient) error {
					_, err := c.Move(ctx, &api.UserMoveRequest{Service: w.service, Actor: &api.Actor{Type: a[0], Key: a[1]}, To: to.ID})
					return err
				})
				cancel()
				if err == nil {
					w.asked.Add(1)
					continue
				}
				w.refused.Add(1)
				sleep(ctx, 20*time.Millisecond)
			}
		})
	}
	return g.Wait
}

// epochs are the actors': each move that took place has raised one by one.
func (w *world) epochs() map[placement.Actor]uint64 {
	w.t.Helper()
	conn, err := net.Dial("unix", filepath.Join(w.p.Nodes[0].Run, "clients", w.service, "agent.sock"))
	if err != nil {
		w.t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	defer func() { c.Close(); _ = c.UserOnCloseWait(context.Background()) }()
	stream, err := api.NewAgentClient(c).Watch(w.t.Context(), &api.WatchRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	all, err := stream.Recv()
	if err != nil {
		w.t.Fatal(err)
	}
	view := placement.NewView()
	if err := view.Apply(all); err != nil {
		w.t.Fatal(err)
	}
	epochs := map[placement.Actor]uint64{}
	for _, a := range (&oracle{}).actors() {
		name := placement.Actor{Type: a[0], Key: a[1]}
		owner, _ := view.Owner(name)
		epochs[name] = owner.Epoch
	}
	return epochs
}

// moved counts the moves that took place since the beginning.
func (w *world) moved() (n int) {
	for a, epoch := range w.epochs() {
		n += int(epoch - w.before[a])
	}
	return n
}

// pid is of a server's process, for which it waits.
func (w *world) pid(server string) (pid int) {
	w.t.Helper()
	eventually(w.t, server+" runs", 60*time.Second, func(context.Context) error {
		for p, id := range processes(w.t) {
			if id == server && alive(p) {
				pid = p
				return nil
			}
		}
		return errNotYet
	})
	return pid
}

// processes are the processes of servers: by process, which one it is of.
func processes(t *testing.T) map[int]string {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		t.Error(err)
	}
	all := map[int]string{}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join("/proc", d.Name(), "environ"))
		if err != nil {
			continue // it has ended
		}
		for _, v := range bytes.Split(text, []byte{0}) {
			if id, ok := bytes.CutPrefix(v, []byte("PLASMA_SERVER=")); ok {
				all[pid] = string(id)
			}
		}
	}
	return all
}

// noTwins watches until ctx is done that no server has two processes.
func noTwins(ctx context.Context, t *testing.T) (wait func()) {
	var g sync.WaitGroup
	g.Go(func() {
		for sleep(ctx, 100*time.Millisecond) {
			by := map[string]int{}
			for pid, id := range processes(t) {
				if other := by[id]; other != 0 && alive(pid) && alive(other) {
					t.Errorf("server %s has two processes: %d and %d", id, other, pid)
				}
				by[id] = pid
			}
		}
	})
	return g.Wait
}

// alive tells whether a process has not been killed.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && len(text) > 0
}

// signal sends one to a process that may have ended.
func (w *world) signal(pid int, s unix.Signal) {
	if pid <= 1 {
		w.t.Errorf("process %d is nobody's", pid) // or everybody's
		return
	}
	if err := unix.Kill(pid, s); err != nil && err != unix.ESRCH {
		w.t.Errorf("signal %d: %v", pid, err)
	}
}

// back waits until a server has another process than it had.
func (w *world) back(server string, than int) {
	w.t.Helper()
	eventually(w.t, server+" runs again", 60*time.Second, func(context.Context) error {
		if pid := w.pid(server); pid == than {
			return fmt.Errorf("its process is %d", pid)
		}
		return nil
	})
}

// whole waits until all servers are up and answer.
func (w *world) whole(count int) {
	w.t.Helper()
	eventually(w.t, "all servers are up", 60*time.Second, func(ctx context.Context) error {
		s, err := serviceOf(ctx, w.p.Nodes[0], w.service)
		if err != nil {
			return err
		}
		n := 0
		for _, v := range s.Servers {
			if v.State == model.Up && v.Why == "" {
				n++
			}
		}
		if n < count {
			return fmt.Errorf("%d of %d are: %+v", n, count, s.Servers)
		}
		return nil
	})
}
