package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/task"
)

// kill is what happens to a life: a victim dies by SIGKILL some time after a step began,
// or, if after is negative, when the step is done. If the step makes the victim, the time
// is from when it is there.
type kill struct {
	victim string
	step   int
	after  time.Duration
}

func (k kill) String() string {
	if k.after < 0 {
		return fmt.Sprintf("%s after %s", k.victim, steps[k.step].name)
	}
	return fmt.Sprintf("%s %s into %s", k.victim, k.after, steps[k.step].name)
}

// made reports whether the step makes the victim.
func (k kill) made() bool {
	return k.victim == "binary" || k.step == 0 && slices.Contains([]string{"shim", "both", "init"}, k.victim)
}

// someKills has every victim killed during every step and after it, in any order. Both
// are containerd and the shim; a binary is the program that containerd executes to begin
// and to end a shim.
func someKills(random *rand.Rand) (kills []kill) {
	for i, s := range steps {
		for _, victim := range []string{"flashcubed", "containerd", "shim", "both", "init", "binary"} {
			if victim == "binary" && !s.binary {
				continue
			}
			if k := (kill{victim, i, 0}); k.made() { // it is there for some milliseconds
				for range 3 {
					k.after = upTo(random, 12)
					kills = append(kills, k)
				}
			} else {
				kills = append(kills, kill{victim, i, upTo(random, 14)})
			}
			if victim != "binary" && (i < stop || i == stop && victim != "init") {
				kills = append(kills, kill{victim, i, -1})
			}
		}
	}
	random.Shuffle(len(kills), func(i, j int) { kills[i], kills[j] = kills[j], kills[i] })
	return kills
}

// TestShimKill kills whatever takes part in a container's life, at every step of it. A
// container does without flashcubed and containerd; one whose shim or init dies is told
// of, with its exit status. All can be deleted and made again, and nothing is left of
// them. PEREGRINE_SOAK=1 kills twenty times as often.
func TestShimKill(t *testing.T) {
	rounds, soak := 1, os.Getenv("PEREGRINE_SOAK") != ""
	if soak {
		rounds = 20
	}
	random := rand.New(rand.NewPCG(seeded(t), 0))
	l := newLives(t)
	for n := range rounds {
		for i, k := range someKills(random) {
			if !t.Run(fmt.Sprintf("%d-%d %s", n, i, k), func(t *testing.T) { l.survive(t, k, random.IntN(2) == 0) }) {
				return
			}
		}
	}
	l.log(t)
	if soak {
		clear(l.orphans)
		l.settle(t, 2*time.Minute, false)
	}
}

// survive lives a life with a kill in it, and maybe one more of the same container, which
// would find what the first has left.
func (l *lives) survive(t *testing.T, k kill, more bool) {
	if err := l.bundle.Flashcube.Full(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.n++
	id := fmt.Sprint("killed-", l.n) // its own: what another left would not show
	client := l.connect(t)
	x := &life{container: l.newContainer(t, client, id)}
	next := subscribe(t, client, id)
	m := l.plot(t.Context(), id, k)
	err := x.live(t.Context(), m)
	if merr := m.end(); merr != nil {
		t.Fatal(merr)
	}
	t.Logf("killed is %t; %d steps were begun, %d done; %v", m.killed, x.begun, x.done, err)
	needed := k.victim != "flashcubed" && (k.victim != "binary" || steps[k.step].name != "delete")
	if err != nil && !(m.killed && needed) {
		t.Fatalf("nothing that it needs was killed, and yet: %v", err)
	}
	if !m.killed {
		l.late++
	} else {
		x = l.revive(t, k.victim, id, x)
		l.inquire(t, k.victim, x, next)
	}
	code, err := x.bury(t.Context())
	switch expected := m.killed && x.exists() && k.victim != "shim" && k.victim != "both"; {
	case err != nil:
		t.Fatalf("the task can't be deleted: %v", err)
	case expected && code < 0:
		t.Error("the task is gone")
	case expected && code != 4 && code != 137:
		t.Errorf("the task's exit is %d", code)
	}
	if more {
		if err := again(t.Context(), x.container); err != nil {
			t.Fatalf("once more: %v", err)
		}
	}
	if err := x.container.Delete(t.Context(), containerd.WithSnapshotCleanup); err != nil {
		t.Error(err)
	}
	// While a shim has no container, or none any more, containerd doesn't know what to do
	// about the death of it.
	l.settle(t, patience, !x.exists() && slices.Contains([]string{"shim", "both", "binary"}, k.victim))
}

// again has a container live once more. containerd may still be about to forget a dead
// shim of it.
func again(ctx context.Context, c containerd.Container) error {
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		x := &life{container: c}
		err := x.live(ctx, nil)
		if x.done > 0 || !errdefs.IsAlreadyExists(err) || time.Now().After(end) {
			return err
		}
	}
}

// revive starts what was killed again.
func (l *lives) revive(t *testing.T, victim, id string, x *life) *life {
	t.Helper()
	var err error
	switch victim {
	case "flashcubed":
		err = l.bundle.Flashcube.Start(t.Context())
	case "containerd", "both":
		if err = l.Containerd.Start(t.Context()); err == nil {
			x.container, err = l.connect(t).LoadContainer(t.Context(), id)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// inquire looks at what the death of a victim did to a container.
func (l *lives) inquire(t *testing.T, victim string, x *life, next func() string) {
	t.Helper()
	switch {
	case !x.exists():
	case victim == "shim":
		exit := ""
		for event := ""; !strings.HasPrefix(event, "delete "); event = next() {
			if strings.HasPrefix(event, "exit "+x.container.ID()+" ") {
				exit = event
			}
		}
		want := []string{fmt.Sprintf("exit %s %d 4", x.container.ID(), x.pid)}
		if x.done <= stop {
			want = append(want, fmt.Sprintf("exit %s %d 137", x.container.ID(), x.pid))
		}
		if !slices.Contains(want, exit) {
			t.Errorf("the last exit told of is %q, want one of %q", exit, want)
		}
	case victim == "containerd":
		task, err := x.container.Task(t.Context(), nil)
		if err != nil {
			t.Errorf("after a restart: %v", err)
			return
		}
		if task.Pid() != x.pid {
			t.Errorf("after a restart the process is %d, was %d", task.Pid(), x.pid)
		}
		if x.done <= start || x.begun > stop {
			return
		}
		status, err := task.Status(t.Context())
		if err == nil && status.Status == containerd.Paused {
			err = task.Resume(t.Context())
		}
		if err == nil {
			err = execute(t.Context(), x.container, task, "after", "true")
		}
		if err != nil {
			t.Errorf("after a restart the task is %q: %v", status.Status, err)
		}
	}
}

// murder is a kill under way.
type murder struct {
	kill
	begun  chan struct{} // closed when it is time
	done   chan struct{} // closed when there is nothing more to do
	cancel context.CancelFunc

	// when done is closed
	killed bool
	err    error
}

func (l *lives) plot(ctx context.Context, id string, k kill) *murder {
	m := &murder{kill: k, begun: make(chan struct{}), done: make(chan struct{})}
	ctx, m.cancel = context.WithCancel(ctx)
	go func() {
		defer close(m.done)
		select {
		case <-m.begun:
			m.commit(ctx, l, id)
		case <-ctx.Done():
		}
	}()
	return m
}

// commit kills the victim, if need be as soon as there is one.
func (m *murder) commit(ctx context.Context, l *lives, id string) {
	if !m.made() {
		time.Sleep(m.after)
	}
	pid := 0
	for pid == 0 {
		if ctx.Err() != nil {
			return
		}
		pid = l.find(m.victim, id)
	}
	if m.made() {
		time.Sleep(m.after)
	}
	switch m.victim {
	case "flashcubed":
		m.err = l.bundle.Flashcube.Kill()
	case "containerd":
		m.err = l.Containerd.Kill()
	case "both":
		// Not the shim first: containerd is not to know of it.
		m.err = l.Containerd.Kill()
		_ = unix.Kill(pid, unix.SIGKILL)
	default:
		m.err = unix.Kill(pid, unix.SIGKILL)
		if errors.Is(m.err, unix.ESRCH) {
			m.err = nil
			return
		}
	}
	m.killed = m.err == nil
}

// at tells that a step begins.
func (m *murder) at(step int) {
	if m != nil && m.step == step && m.after >= 0 {
		close(m.begun)
	}
}

// ends tells that a step is done. It reports whether there is no point in going on.
func (m *murder) ends(step int) bool {
	if m == nil || m.step != step || m.after >= 0 {
		return false
	}
	close(m.begun)
	<-m.done
	return m.victim != "flashcubed"
}

// end tells that the life is over.
func (m *murder) end() error {
	m.cancel()
	<-m.done
	return m.err
}

// find is the process id of a victim, 0 while there is none.
func (l *lives) find(victim, id string) int {
	switch victim {
	case "flashcubed":
		return l.bundle.Flashcube.Pid
	case "containerd":
		return l.Containerd.Pid
	case "shim", "both":
		parts, err := l.bundle.Flashcube.Claimed()
		for _, pids := range parts {
			if err == nil && unix.Kill(pids[0], 0) == nil {
				return pids[0]
			}
		}
	case "init":
		state, err := task.LoadState(filepath.Join(l.bundles("state"), id))
		if err != nil || state.Pid == 0 {
			return 0
		}
		if began, err := task.StartTime(state.Pid); err == nil && began == state.StartTime {
			return state.Pid
		}
	case "binary":
		for _, pid := range children(l.Containerd.Pid) {
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			if slices.Contains([]string{"containerd-shim", "flashcube-shim"}, strings.TrimSpace(string(name))) {
				return pid
			}
		}
	}
	return 0
}
