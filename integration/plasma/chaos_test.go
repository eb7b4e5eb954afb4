package plasma

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/host/failpoint"
)

// soak tells whether tests take their time.
func soak() bool { return os.Getenv("PEREGRINE_SOAK") == "1" }

// lease is plasmad's: what is away for longer is given up by the others.
const lease = 5 * time.Second

// A fault breaks something, and mends it, unless that mends itself.
type fault struct {
	name string
	do   func(w *world)
	long bool // it takes longer than a lease
}

// faults are all that can break while actors that are stored are to lose nothing.
func faults() (all []fault) {
	for _, step := range failpoint.Names {
		all = append(all, fault{name: "die at " + step, do: func(w *world) { w.die(step) }})
	}
	some := func() time.Duration { return time.Duration(rand.IntN(1500)) * time.Millisecond }
	return append(all,
		fault{name: "kill a host", do: func(w *world) {
			s := w.anyServer()
			pid := w.pid(s.ID)
			w.signal(pid, unix.SIGKILL)
			w.back(s.ID, pid)
		}},
		fault{name: "kill two hosts", do: func(w *world) {
			was := map[string]int{}
			for range 2 {
				s := w.anyServer()
				was[s.ID] = w.pid(s.ID)
			}
			for _, pid := range was {
				w.signal(pid, unix.SIGKILL)
			}
			for id, pid := range was {
				w.back(id, pid)
			}
		}},
		fault{name: "kill a plasmad, and a member of etcd with it", do: func(w *world) { w.restart(w.anyNode(), some()) }},
		fault{name: "kill a plasmad for longer than its lease", do: func(w *world) { w.restart(w.anyNode(), lease+2*time.Second) }, long: true},
		fault{name: "kill all plasmads", do: func(w *world) {
			for _, n := range w.p.Nodes {
				w.must(n.Kill())
			}
			sleep(w.t.Context(), some())
			w.must(w.p.StartNodes(w.t.Context()))
		}, long: true},
		fault{name: "kill the global manager", do: func(w *world) { w.restart(leaderOf(w.t, w.p), some()) }},
		fault{name: "kill a containerd", do: func(w *world) {
			n := w.anyNode()
			w.must(n.Containerd.Kill())
			sleep(w.t.Context(), some())
			w.must(n.Containerd.Start(w.t.Context()))
		}},
		fault{name: "kill a containerd, and a host meanwhile", do: func(w *world) {
			s := w.anyServer()
			n, pid := nodeOf(w.p, s), w.pid(s.ID)
			w.must(n.Containerd.Kill())
			w.signal(pid, unix.SIGKILL)
			w.must(n.Containerd.Start(w.t.Context()))
			w.back(s.ID, pid)
		}},
		fault{name: "kill a shim", do: func(w *world) {
			s := w.anyServer()
			pid := w.pid(s.ID)
			w.signal(parent(w.t, pid), unix.SIGKILL)
			w.back(s.ID, pid)
		}},
		fault{name: "cut a node off", do: func(w *world) { w.cut(w.anyNode(), 500*time.Millisecond+some()) }},
		fault{name: "cut a node off for longer than its lease", do: func(w *world) { w.cut(w.anyNode(), lease+2*time.Second) }, long: true},
		fault{name: "part two nodes", do: func(w *world) {
			i := rand.IntN(len(w.p.Nodes))
			pair := []*harness.PlasmaNode{w.p.Nodes[i], w.p.Nodes[(i+1)%len(w.p.Nodes)]}
			w.must(w.p.Part(true, pair...))
			sleep(w.t.Context(), time.Second+some())
			w.must(w.p.Part(false, pair...))
		}},
		fault{name: "pause a host", do: func(w *world) { w.pause(w.pid(w.anyServer().ID), some()) }},
		fault{name: "pause a host for longer than a lease", do: func(w *world) { w.pause(w.pid(w.anyServer().ID), lease+2*time.Second) }, long: true},
		fault{name: "pause a plasmad", do: func(w *world) { w.pause(w.anyNode().Pid, some()) }},
		fault{name: "pause the global manager for longer than its lease", do: func(w *world) {
			w.pause(leaderOf(w.t, w.p).Pid, lease+2*time.Second)
		}, long: true},
		fault{name: "pause a containerd", do: func(w *world) { w.pause(w.anyNode().Containerd.Pid, some()) }},
	)
}

// die has a server's process kill itself at a step of what it does. Not every step is come by in
// time: then it is killed.
func (w *world) die(step string) {
	s := w.anyServer()
	pid := w.pid(s.ID)
	text := step
	if !slices.Contains([]string{failpoint.Recover, failpoint.RecoverPending, failpoint.RecoverDone}, step) {
		text = fmt.Sprintf("%s:%d", step, 1+rand.IntN(3))
		w.must(os.WriteFile(filepath.Join(w.arms, s.ID), []byte(text), 0o600))
		w.signal(pid, unix.SIGUSR1)
	} else {
		w.must(os.WriteFile(filepath.Join(w.arms, s.ID), []byte(text), 0o600))
		w.signal(pid, unix.SIGKILL)
		w.back(s.ID, pid) // it dies, too
		pid = w.pid(s.ID)
	}
	for end := time.Now().Add(3 * time.Second); alive(pid) && time.Now().Before(end); {
		sleep(w.t.Context(), 10*time.Millisecond)
	}
	if alive(pid) {
		w.struck["step not come by: "+step]++
		w.signal(pid, unix.SIGKILL)
	}
	w.back(s.ID, pid)
}

// restart kills a node's plasmad and starts it again later.
func (w *world) restart(n *harness.PlasmaNode, later time.Duration) {
	w.must(n.Kill())
	sleep(w.t.Context(), later)
	w.must(n.Start(w.t.Context()))
}

func (w *world) cut(n *harness.PlasmaNode, d time.Duration) {
	w.must(w.p.Cut(n))
	sleep(w.t.Context(), d)
	w.must(w.p.Mend(n))
}

func (w *world) pause(pid int, d time.Duration) {
	w.signal(pid, unix.SIGSTOP)
	sleep(w.t.Context(), d)
	w.signal(pid, unix.SIGCONT)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// parent is the process that a process belongs to.
func parent(t *testing.T, pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Error(err)
	}
	var ppid int
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte("PPid:")); ok {
			_, _ = fmt.Sscan(string(rest), &ppid)
		}
	}
	return ppid
}

// strike lets a fault happen, and waits until actors move again.
func (w *world) strike(f fault) {
	w.t.Helper()
	began, before := time.Now(), w.asked.Load()
	f.do(w)
	took, meanwhile := time.Since(began), w.asked.Load()
	eventually(w.t, "actors move again after: "+f.name, 30*time.Second, func(context.Context) error {
		if w.asked.Load() < meanwhile+4 {
			return errNotYet
		}
		return nil
	})
	w.look(w.t.Context())
	w.struck[f.name]++
	w.t.Logf("%s: %s and %d moves begun, the next ones within %s", f.name, took.Round(10*time.Millisecond),
		meanwhile-before, (time.Since(began) - took).Round(10*time.Millisecond))
}

// end ends the load, and tells what there was.
func (w *world) end(count int) {
	w.t.Helper()
	w.whole(count)
	w.check()
	w.t.Logf("%d moves took place of %d that were begun, %d could not begin", w.moved(), w.asked.Load(), w.refused.Load())
	for _, name := range slices.Sorted(maps.Keys(w.struck)) {
		w.t.Logf("%4d x %s", w.struck[name], name)
	}
}

// TestChaos has things break while actors move: in the long form all, until 10,000 moves took
// place; in the short one some, another choice each time, and none that takes long.
func TestChaos(t *testing.T) {
	p, image := cluster(t, 3, nil)
	w := begin(t, p, image, "app", 4, "")
	ctx, stop := context.WithCancel(t.Context())
	moving, watching := w.keepMoving(ctx, 8), noTwins(ctx, t)
	defer func() { stop(); moving(); watching() }()
	all := faults()
	want, few := 10_000, len(all)
	if !soak() {
		all = slices.DeleteFunc(all, func(f fault) bool { return f.long })
		want, few = 100, 4
	}
	for w.moved() < want {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, f := range all[:min(few, len(all))] {
			w.strike(f)
		}
		t.Logf("%d moves took place", w.moved())
	}
	w.drain()
	stop()
	moving()
	watching()
	w.end(4)
}

// drain takes a server out of service under load.
func (w *world) drain() {
	w.t.Helper()
	s, began := w.anyServer(), time.Now()
	w.must(w.p.Nodes[0].Do(w.t.Context(), func(ctx context.Context, c api.ClusterClient) error {
		_, err := c.Drain(ctx, &api.DrainRequest{Service: w.service, Server: s.ID})
		return err
	}))
	eventually(w.t, s.ID+" ends", 60*time.Second, func(ctx context.Context) error {
		now, err := serviceOf(ctx, w.p.Nodes[0], w.service)
		if err != nil {
			return err
		}
		for _, v := range now.Servers {
			if v.ID == s.ID {
				return fmt.Errorf("it is there: %+v; %+v", v, now.Decisions)
			}
		}
		return nil
	})
	w.struck["drain a server"]++
	w.t.Logf("drain a server: %s", time.Since(began).Round(10*time.Millisecond))
}
