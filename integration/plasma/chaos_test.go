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
}

// faults are all that can break while actors that are stored are to lose nothing.
func faults() (all []fault) {
	for _, step := range failpoint.Names {
		all = append(all, fault{"die at " + step, func(w *world) { w.die(step) }})
	}
	some := func() time.Duration { return time.Duration(rand.IntN(1500)) * time.Millisecond }
	return append(all,
		fault{"kill a host", func(w *world) {
			s := w.anyServer()
			pid := w.pid(s.ID)
			w.signal(pid, unix.SIGKILL)
			w.back(s.ID, pid)
		}},
		fault{"kill two hosts", func(w *world) {
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
		fault{"kill a plasmad, and a member of etcd with it", func(w *world) { w.restart(w.anyNode(), some()) }},
		fault{"kill the global manager", func(w *world) { w.restart(leaderOf(w.t, w.p), some()) }},
		fault{"kill a containerd", func(w *world) {
			n := w.anyNode()
			w.must(n.Containerd.Kill())
			sleep(w.t.Context(), some())
			w.must(n.Containerd.Start(w.t.Context()))
		}},
		fault{"kill a containerd, and a host meanwhile", func(w *world) {
			s := w.anyServer()
			n, pid := nodeOf(w.p, s), w.pid(s.ID)
			w.must(n.Containerd.Kill())
			w.signal(pid, unix.SIGKILL)
			w.must(n.Containerd.Start(w.t.Context()))
			w.back(s.ID, pid)
		}},
		fault{"kill a shim", func(w *world) {
			s := w.anyServer()
			pid := w.pid(s.ID)
			w.signal(parent(w.t, pid), unix.SIGKILL)
			w.back(s.ID, pid)
		}},
		fault{"cut a node off", func(w *world) { w.cut(w.anyNode(), 500*time.Millisecond+some()) }},
		fault{"cut a node off for longer than its lease", func(w *world) { w.cut(w.anyNode(), lease+2*time.Second) }},
		fault{"part two nodes", func(w *world) {
			i := rand.IntN(len(w.p.Nodes))
			pair := []*harness.PlasmaNode{w.p.Nodes[i], w.p.Nodes[(i+1)%len(w.p.Nodes)]}
			w.must(w.p.Part(true, pair...))
			sleep(w.t.Context(), time.Second+some())
			w.must(w.p.Part(false, pair...))
		}},
		fault{"pause a host", func(w *world) { w.pause(w.pid(w.anyServer().ID), some()) }},
		fault{"pause a host for longer than a lease", func(w *world) { w.pause(w.pid(w.anyServer().ID), lease+2*time.Second) }},
		fault{"pause a plasmad", func(w *world) { w.pause(w.anyNode().Pid, some()) }},
		fault{"pause the global manager for longer than its lease", func(w *world) {
			w.pause(leaderOf(w.t, w.p).Pid, lease+2*time.Second)
		}},
		fault{"pause a containerd", func(w *world) { w.pause(w.anyNode().Containerd.Pid, some()) }},
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

// TestChaos has each thing break that can, while actors move. The long form goes on until 10,000
// moves took place; the short one lets what takes long happen beside hosts' deaths.
func TestChaos(t *testing.T) {
	p, image := cluster(t, 3, nil)
	w := begin(t, p, image, "app", 4, "")
	ctx, stop := context.WithCancel(t.Context())
	moving, watching := w.keepMoving(ctx, 4), noTwins(ctx, t)
	defer func() { stop(); moving(); watching() }()
	if soak() {
		for round := 0; w.moved() < 10_000; round++ {
			all := faults()
			rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			for _, f := range all {
				w.strike(f)
			}
			t.Logf("round %d: %d moves", round, w.moved())
		}
	} else {
		w.strike(fault{"nothing", func(w *world) { sleep(t.Context(), 2*time.Second) }})
		t.Logf("%d moves took place", w.moved())
		for _, f := range faults() {
			w.strike(f)
		}
	}
	stop()
	moving()
	watching()
	w.drain()
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
