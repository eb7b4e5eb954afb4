package driver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/images"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/service"
)

// TestLife takes a server through all that may happen to it.
func TestLife(t *testing.T) {
	l := newLab(t, "2.4")
	l.importImage(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	happened, err := l.Events(ctx)
	if err != nil {
		t.Fatal(err)
	}
	next(t, happened, Subscribed)

	s := l.busybox(t, "life-0", "echo hello", "[limit]\ncpu = 0.5\nmemory = '64MiB'")
	first := l.start(t, s)
	if first.State != StateRunning || first.Pid == 0 || first.Service != "life" || first.Node != "n1" || first.Version != 3 || first.Namespace != l.c.Namespace {
		t.Errorf("it is %+v", first)
	}
	if cpu, memory := quota(t, first.Cgroup); cpu != "50000" || memory != strconv.Itoa(64<<20) {
		t.Errorf("it has %s µs and %s bytes", cpu, memory)
	}
	if again := l.start(t, s); again.Pid != first.Pid {
		t.Errorf("a second start has made process %d of %d", again.Pid, first.Pid)
	}
	if err := l.Update(t.Context(), s.ID, model.Resources{CPU: 1.5, Mem: 128 << 20}); err != nil {
		t.Error(err)
	}
	if cpu, memory := quota(t, first.Cgroup); cpu != "150000" || memory != strconv.Itoa(128<<20) {
		t.Errorf("raised, it has %s µs and %s bytes", cpu, memory)
	}
	if err := l.Update(t.Context(), s.ID, model.Resources{}); err != nil {
		t.Error(err)
	}
	if cpu, memory := quota(t, first.Cgroup); cpu == "150000" || memory == strconv.Itoa(128<<20) {
		t.Errorf("without limits, it has %s µs and %s bytes", cpu, memory)
	}

	// It dies, and is started again with what it stored.
	lives := filepath.Join(l.dirs(s.ID).state, "lives")
	text(t, lives, 1)
	if err := unix.Kill(int(first.Pid), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := next(t, happened, Exited); e.ID != s.ID || e.Pid != first.Pid || e.ExitStatus != 137 {
		t.Errorf("%+v", e)
	}
	if r := l.find(t, s.ID); r.State != StateStopped || r.ExitStatus != 137 || r.ExitedAt.IsZero() {
		t.Errorf("dead, it is %+v", r)
	}
	s.Version++
	second := l.start(t, s)
	if second.State != StateRunning || second.Pid == first.Pid || second.Version != 4 {
		t.Errorf("it is %+v", second)
	}
	text(t, lives, 2)
	if got := text(t, l.dirs(s.ID).log, 2); got != "hello\nhello\n" {
		t.Errorf("its log has %q", got)
	}

	// containerd dies; the server doesn't notice.
	if err := l.c.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := l.Start(t.Context(), s); !errdefs.IsUnavailable(err) {
		t.Errorf("a start without containerd: %v", err)
	}
	if err := l.c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	next(t, happened, Subscribed)
	if r := l.start(t, s); r.Pid != second.Pid || r.State != StateRunning {
		t.Errorf("after a restart of containerd it is %+v", r)
	}

	if err := unix.Kill(int(second.Pid), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := next(t, happened, Exited); e.ID != s.ID || e.Pid != second.Pid {
		t.Errorf("%+v", e)
	}
	l.start(t, s)
	text(t, lives, 3)

	// It is stopped, and deleted, with what it stored only if that is said.
	if err := l.Stop(t.Context(), s.ID, time.Minute); err != nil {
		t.Fatal(err)
	}
	if r := l.find(t, s.ID); r.State != StateStopped || r.Pid != 0 {
		t.Errorf("stopped, it is %+v", r)
	}
	l.start(t, s)
	text(t, lives, 4)
	for range 2 {
		if err := l.Delete(t.Context(), s.ID, false); err != nil {
			t.Fatal(err)
		}
	}
	text(t, lives, 4)
	if err := l.Delete(t.Context(), s.ID, true); err != nil {
		t.Fatal(err)
	}
	l.wantNothing(t, s.ID)
	if err := l.Stop(t.Context(), s.ID, time.Minute); err != nil {
		t.Errorf("stop what isn't there: %v", err)
	}
	if err := l.Update(t.Context(), s.ID, model.Resources{}); !errdefs.IsNotFound(err) {
		t.Errorf("update what isn't there: %v", err)
	}
	cancel()
	for range happened { // until it is closed
	}
}

// TestFaults has what goes wrong happen on one containerd.
func TestFaults(t *testing.T) {
	l := newLab(t, "2.4")
	l.importImage(t)
	t.Run("stubborn", l.stubborn)
	t.Run("half made", l.halfMade)
	t.Run("given up", l.givenUp)
	t.Run("nothing half made", l.nothingHalfMade)
}

// A process that doesn't end when it is asked to is killed.
func (l *lab) stubborn(t *testing.T) {
	s := l.busybox(t, "stubborn-0", "trap '' TERM", "")
	l.start(t, s)
	text(t, filepath.Join(l.dirs(s.ID).state, "lives"), 1)
	began := time.Now()
	if err := l.Stop(t.Context(), s.ID, 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Errorf("it ended after %v", took)
	}
	if err := l.Delete(t.Context(), s.ID, true); err != nil {
		t.Fatal(err)
	}
	l.wantNothing(t, s.ID)
}

// What a driver that was killed left, the next takes away or goes on with.
func (l *lab) halfMade(t *testing.T) {
	s := l.busybox(t, "half-0", "true", "")
	ctx := l.in(t.Context())
	// A snapshot without a container.
	rooted := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "now"})
	if _, err := l.client.SnapshotService("overlayfs").Prepare(ctx, s.ID, "", rooted); err != nil {
		t.Fatal(err)
	}
	l.start(t, s)
	// A container without a task.
	c, err := l.client.LoadContainer(ctx, s.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := end(ctx, c, 0); err != nil {
		t.Fatal(err)
	}
	if r := l.find(t, s.ID); r.State != StateStopped {
		t.Errorf("it is %+v", r)
	}
	if r := l.start(t, s); r.State != StateRunning {
		t.Errorf("it is %+v", r)
	}
	// A task that was not started.
	if c, err = l.client.LoadContainer(ctx, s.ID); err == nil {
		err = end(ctx, c, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.NewTask(ctx, cio.NullIO); err != nil {
		t.Fatal(err)
	}
	if r := l.find(t, s.ID); r.State != StateCreated {
		t.Errorf("it is %+v", r)
	}
	if r := l.start(t, s); r.State != StateRunning {
		t.Errorf("it is %+v", r)
	}
	if err := l.Delete(t.Context(), s.ID, true); err != nil {
		t.Fatal(err)
	}
	// A snapshot without a container that is not to be any more.
	if _, err := l.client.SnapshotService("overlayfs").Prepare(ctx, s.ID, "", rooted); err != nil {
		t.Fatal(err)
	}
	if err := l.Delete(t.Context(), s.ID, true); err != nil {
		t.Fatal(err)
	}
	l.wantNothing(t, s.ID)
	// Somebody else's.
	if out, err := l.c.Ctr(t.Context(), "container", "create", l.image.Name, s.ID); err != nil {
		t.Fatal(err, out)
	}
	for _, err := range []error{l.Start(t.Context(), s), l.Stop(t.Context(), s.ID, 0), l.Delete(t.Context(), s.ID, true)} {
		if !errdefs.IsAlreadyExists(err) {
			t.Errorf("somebody else's container: %v", err)
		}
	}
	if out, err := l.c.Ctr(t.Context(), "container", "rm", s.ID); err != nil {
		t.Fatal(err, out)
	}
}

// Servers of one service start at the same time, of an image that is pulled.
func TestPull(t *testing.T) {
	l := newLab(t, "2.4")
	registry, err := images.NewRegistry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := registry.Close(); err != nil {
			t.Error(err)
		}
	}()
	if l.image.Name, err = registry.Push(t.Context(), l.image); err != nil {
		t.Fatal(err)
	}
	started := make(chan error)
	var ids []string
	for i := range 3 {
		s := l.busybox(t, service.ServerID("pull", i), "true", "snapshotter = 'overlayfs'")
		ids = append(ids, s.ID)
		go func() { started <- l.Start(t.Context(), s) }()
	}
	for range ids {
		if err := <-started; err != nil {
			t.Error(err)
		}
	}
	all, err := l.List(t.Context())
	if err != nil || len(all) != 3 {
		t.Errorf("there are %+v, %v", all, err)
	}
	for i, id := range ids {
		if err := l.Delete(t.Context(), id, true); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(l.dirs(id).peers); (err == nil) != (i < len(ids)-1) {
			t.Errorf("after %d are deleted, what they share: %v", i+1, err)
		}
	}
	l.wantNothing(t, ids[0])
}

// Who gives up a start finds a server that runs, or nothing.
func (l *lab) givenUp(t *testing.T) {
	s := l.busybox(t, "given-0", "true", "")
	for i := range 4 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*10*time.Millisecond)
		err := l.Start(ctx, s)
		cancel()
		if err == nil {
			if r := l.find(t, s.ID); r.State != StateRunning {
				t.Errorf("it is %+v", r)
			}
			if err := l.Delete(t.Context(), s.ID, true); err != nil {
				t.Error(err)
			}
		}
		l.wantNothing(t, s.ID)
	}
}

// A start that fails leaves nothing.
func (l *lab) nothingHalfMade(t *testing.T) {
	good := l.busybox(t, "fails-0", "true", "")
	with := func(change func(*service.Spec)) Server {
		s, spec := good, *good.Service
		change(&spec)
		s.Service = &spec
		return s
	}
	fake := l.fakeCNI(t, "exit 1")
	for name, s := range map[string]Server{
		"no such image":   with(func(s *service.Spec) { s.Image = "127.0.0.1:1/no/image:1" }),
		"no such program": with(func(s *service.Spec) { s.Command = []string{"/no/such/program"} }),
		"no such source":  with(func(s *service.Spec) { s.Mounts = []service.Mount{{Source: "/no/such", Target: "/x"}} }),
		"no such runtime": with(func(s *service.Spec) { s.Runtime = "io.containerd.none.v1" }),
		"no such network": with(func(s *service.Spec) { s.Network = "none-such" }),
		"no such layers":  with(func(s *service.Spec) { s.Snapshotter = "none-such" }),
		"network fails":   with(func(s *service.Spec) { s.Network = "fake" }),
	} {
		if err := l.Start(t.Context(), s); err == nil {
			t.Errorf("%s: it starts", name)
		}
		l.wantNothing(t, s.ID)
	}
	if got := text(t, fake, 2); got != "ADD fails-0\nDEL fails-0\n" {
		t.Errorf("the network was asked for %q", got)
	}
}

// Where a server's network leads: nowhere, to the node's, or to what CNI gave it.
func TestNetworks(t *testing.T) {
	l := newLab(t, "2.4")
	l.importImage(t)
	calls := l.fakeCNI(t, "")
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	const where = "{ readlink /proc/self/ns/net; echo ${PLASMA_ADDRESS:-none}; } > /var/lib/plasma/where"
	for i, network := range []string{"host", "none", "fake"} {
		s := l.busybox(t, service.ServerID("net", i), where, fmt.Sprintf("network = %q", network))
		r := l.start(t, s)
		got := strings.Fields(text(t, filepath.Join(l.dirs(s.ID).state, "where"), 2))
		if (got[0] == own) != (network == "host") {
			t.Errorf("%s: its namespace is %s, the node's %s", network, got[0], own)
		}
		if want := map[bool]string{true: "10.1.2.3", false: "none"}[network == "fake"]; got[1] != want || network == "fake" && r.Address.String() != want {
			t.Errorf("%s: its address is %s, it is listed with %s", network, got[1], r.Address)
		}
	}
	// What it was attached to, it stays in: the others know its address.
	s := l.busybox(t, "net-2", where, "network = 'fake'")
	if err := l.Stop(t.Context(), s.ID, 0); err != nil {
		t.Fatal(err)
	}
	if r := l.start(t, s); r.State != StateRunning || r.Address.String() != "10.1.2.3" {
		t.Errorf("it is %+v", r)
	}
	if got := text(t, calls, 1); got != "ADD net-2\n" {
		t.Errorf("the network was asked for %q", got)
	}
	// The network is another, and its configuration is gone.
	if err := l.Stop(t.Context(), s.ID, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(l.dir, "net.d/10-fake.conflist")); err != nil {
		t.Fatal(err)
	}
	if r := l.start(t, l.busybox(t, "net-2", where, "network = 'none'")); r.Address.IsValid() {
		t.Errorf("it is %+v", r)
	}
	if got := text(t, calls, 2); got != "ADD net-2\nDEL net-2\n" {
		t.Errorf("the network was asked for %q", got)
	}
	for i := range 3 {
		if err := l.Delete(t.Context(), service.ServerID("net", i), true); err != nil {
			t.Error(err)
		}
	}
	l.wantNothing(t, "net-2")
}
