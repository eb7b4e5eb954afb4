package task_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	"github.com/peregrine-dev/peregrine/shim/cgroup"
	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/cube"
	"github.com/peregrine-dev/peregrine/shim/cube/cubetest"
	"github.com/peregrine-dev/peregrine/shim/task"
)

// childEnv makes the test binary a shim that is to be killed: its value is the bundle,
// after the program flashcube-init.
const childEnv = "PEREGRINE_TASK_CHILD"

func TestMain(m *testing.M) {
	if program, bundle, ok := strings.Cut(os.Getenv(childEnv), "\n"); ok {
		if err := beShim(program, bundle); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		select {}
	}
	os.Exit(leaktest.Main(m))
}

// patience is how long what must happen may take.
const patience = time.Minute

func background() context.Context { return namespaces.WithNamespace(context.Background(), "test") }

// shim is a service with a fall-back that isn't there, and the events it sent.
type shim struct {
	*task.Router
	tb       testing.TB
	fallback *fake

	mu      sync.Mutex
	events  []any
	reasons []string
	stopped bool
}

func newShim(tb testing.TB) *shim {
	tb.Helper()
	program := cubetest.Init(tb)
	s := &shim{tb: tb, fallback: &fake{}}
	done := make(chan struct{})
	reaped := make(chan struct{})
	signals := make(chan os.Signal, 32)
	signal.Notify(signals, unix.SIGCHLD)
	go func() {
		defer close(reaped)
		for {
			select {
			case <-signals:
				_ = reaper.Reap()
			case <-done:
				return
			}
		}
	}()
	b, err := cube.NewBuilder(program)
	if err != nil {
		tb.Fatal(err)
	}
	host, err := cgroup.Warm()
	if err != nil {
		tb.Fatal(err)
	}
	native := task.NewNative(tb.TempDir(), host, b, s.send, done)
	s.Router = &task.Router{
		Native: native, Binary: "runtime",
		Fallback: func() (taskapi.TTRPCTaskService, error) { return s.fallback, nil },
		Count: func(reason string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.reasons = append(s.reasons, reason)
		},
		Stop: s.stop,
	}
	tb.Cleanup(func() {
		native.Drop()
		// A dropped init ends by itself; its exit is reaped here at the latest.
		signal.Stop(signals)
		close(done)
		<-reaped
		_ = reaper.Reap()
		if err := b.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func (s *shim) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
}

func (s *shim) send(event any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, event)
}

// sent are the events by the names of their types.
func (s *shim) sent() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, e := range s.events {
		name := fmt.Sprintf("%T", e)
		names = append(names, strings.TrimPrefix(name[strings.LastIndexByte(name, '.')+1:], "Task"))
	}
	return strings.Join(names, " ")
}

// until waits until something is so.
func until(tb testing.TB, what string, so func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(patience); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatal("not in time: ", what)
		}
	}
}

// bundle makes one whose container runs a script.
func bundle(tb testing.TB, script string, change func(*specs.Spec)) string {
	tb.Helper()
	text, err := usual()
	if err != nil {
		tb.Fatal(err)
	}
	var s specs.Spec
	if err := json.Unmarshal(text, &s); err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	s.Root.Path = cubetest.Root(tb)
	s.Process.Args = []string{"sh", "-c", script}
	parent := fmt.Sprintf("/peregrine-task-%d", os.Getpid())
	s.Linux.CgroupsPath = parent + "/" + filepath.Base(filepath.Dir(dir)) + filepath.Base(dir)
	if change != nil {
		change(&s)
	}
	if text, err = json.Marshal(&s); err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if left := cgroups(tb, s.Linux.CgroupsPath); len(left) > 0 {
			tb.Errorf("left %v", left)
		}
		for _, dir := range cgroups(tb, parent) {
			_ = unix.Rmdir(dir) // unless another's are in it
		}
	})
	return dir
}

// usual is read at the beginning: the fall-back has this process change its directory.
var usual = sync.OnceValues(func() ([]byte, error) { return os.ReadFile("../part/usual.json") })

func cgroups(tb testing.TB, path string) []string {
	tb.Helper()
	list, err := filepath.Glob("/sys/fs/cgroup/*" + path)
	if err != nil {
		tb.Fatal(err)
	}
	return list
}

func (s *shim) create(id, bundle string, change func(*taskapi.CreateTaskRequest)) (int, error) {
	r := &taskapi.CreateTaskRequest{ID: id, Bundle: bundle}
	if change != nil {
		change(r)
	}
	a, err := s.Create(background(), r)
	return int(a.GetPid()), err
}

// run creates and starts a container that is ended with the test.
func (s *shim) run(id, bundle string) int {
	s.tb.Helper()
	pid, err := s.create(id, bundle, nil)
	if err == nil {
		_, err = s.Start(background(), &taskapi.StartRequest{ID: id})
	}
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(func() { s.end(id) })
	return pid
}

// end kills and deletes a container, if it is there.
func (s *shim) end(id string) {
	s.tb.Helper()
	if _, err := s.State(background(), &taskapi.StateRequest{ID: id}); err != nil {
		return
	}
	_, _ = s.Kill(background(), &taskapi.KillRequest{ID: id, Signal: uint32(unix.SIGKILL), All: true})
	s.wait(id, "")
	if _, err := s.Delete(background(), &taskapi.DeleteRequest{ID: id}); err != nil {
		s.tb.Error(err)
	}
}

func (s *shim) wait(id, exec string) int {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(background(), patience)
	defer cancel()
	a, err := s.Wait(ctx, &taskapi.WaitRequest{ID: id, ExecID: exec})
	if err != nil {
		s.tb.Error(err)
		return -1
	}
	return int(a.ExitStatus)
}

// beShim is the process that a test kills.
func beShim(program, bundle string) error {
	b, err := cube.NewBuilder(program)
	if err != nil {
		return err
	}
	host, err := cgroup.Warm()
	if err != nil {
		return err
	}
	native := task.NewNative(bundle, host, b, func(any) {}, nil)
	if _, _, err := native.Create(background(), "test", &taskapi.CreateTaskRequest{ID: "killed", Bundle: bundle}, nil); err != nil {
		return err
	}
	if _, err := native.Start(background(), &taskapi.StartRequest{ID: "killed"}); err != nil {
		return err
	}
	began, err := task.StartTime(os.Getpid())
	if err != nil {
		return err
	}
	// As in a part's directory.
	part, err := os.Readlink(filepath.Join(bundle, claim.Link))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(part, claim.PidFile), fmt.Appendf(nil, "%d %d\n", os.Getpid(), began), 0o600); err != nil {
		return err
	}
	_, err = fmt.Println("ready")
	return err
}
