package part

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/cube/cubetest"
)

// containerd takes the events.
type containerd struct {
	mu     sync.Mutex
	topics []string
}

func (c *containerd) Forward(_ context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.topics = append(c.topics, r.Envelope.Namespace+r.Envelope.Topic)
	return &emptypb.Empty{}, nil
}

// listen serves the events' API at a path.
func (c *containerd) listen(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	eventsapi.RegisterTTRPCEventsService(server, c)
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
}

// programs are flashcube-shim and flashcube-init in a directory.
func programs(t *testing.T) (shim string) {
	t.Helper()
	dir := t.TempDir()
	shim = filepath.Join(dir, claim.ShimBinary)
	cmd := exec.Command("go", "build", "-o", shim, "github.com/peregrine-dev/peregrine/shim/cmd/flashcube-shim")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(cubetest.Init(t))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, claim.InitBinary), text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return shim
}

func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time: ", what)
		}
	}
}

// TestRun has a container's whole life in parts, of the pool and cold, without containerd.
func TestRun(t *testing.T) {
	shim := programs(t)
	for _, cold := range []bool{true, false} {
		t.Run(fmt.Sprintf("cold %t", cold), func(t *testing.T) {
			top, err := os.MkdirTemp("", "part") // short: sockets are in it
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(top) })
			var c containerd
			c.listen(t, filepath.Join(top, "events"))
			profile := claim.Profile(filepath.Join(top, "run"), "default")
			if err := claim.Prepare(profile); err != nil {
				t.Fatal(err)
			}
			if !cold {
				dir := filepath.Join(profile, claim.Building, "1")
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command(shim, "-dir", dir)
				cmd.Stderr = os.Stderr
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				until(t, "the part", func() bool { _, err := os.Stat(filepath.Join(profile, claim.Ready, "1")); return err == nil })
			}
			life(t, &claim.Claimer{Dir: profile, Shim: func() string { return shim }}, top, &c)
			left, err := filepath.Glob(filepath.Join(profile, "*", "*"))
			if err != nil {
				t.Fatal(err)
			}
			left = slices.DeleteFunc(left, func(file string) bool { return strings.Contains(file, "/"+claim.Stats+"/") })
			if len(left) > 0 {
				t.Errorf("left %v", left)
			}
		})
	}
}

func life(t *testing.T, claimer *claim.Claimer, top string, c *containerd) {
	t.Helper()
	bundle := filepath.Join(top, "bundle")
	var s specs.Spec
	if err := json.Unmarshal(usual, &s); err != nil {
		t.Fatal(err)
	}
	s.Root.Path, s.Process.Args = cubetest.Root(t), []string{"sh", "-c", "echo out; exit 6"}
	parent := fmt.Sprintf("/peregrine-part-%d", os.Getpid())
	s.Linux.CgroupsPath = parent + "/c"
	t.Cleanup(func() {
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + parent)
		for _, dir := range dirs {
			if err := unix.Rmdir(dir); err != nil {
				t.Errorf("%s: %v", dir, err)
			}
		}
	})
	text, err := json.Marshal(&s)
	if err == nil {
		err = os.Mkdir(bundle, 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	address, err := claimer.Take(&claim.Request{ID: "c", Namespace: "test", Bundle: bundle, TTRPCAddress: filepath.Join(top, "events")})
	if err != nil {
		t.Fatal(err)
	}
	part, err := os.Readlink(filepath.Join(bundle, claim.Link))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	tasks := taskapi.NewTTRPCTaskClient(client)
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), "test"), 2*time.Minute)
	defer cancel()

	log := filepath.Join(top, "log")
	if _, err := tasks.Create(ctx, &taskapi.CreateTaskRequest{ID: "c", Bundle: bundle, Stdout: "file://" + log}); err != nil {
		t.Fatal(err)
	}
	info, err := tasks.Connect(ctx, &taskapi.ConnectRequest{ID: "c"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tasks.Start(ctx, &taskapi.StartRequest{ID: "c"}); err != nil {
		t.Fatal(err)
	}
	if a, err := tasks.Wait(ctx, &taskapi.WaitRequest{ID: "c"}); err != nil || a.ExitStatus != 6 {
		t.Error(a, err)
	}
	// Version 2 of the API is there too.
	if err := client.Call(ctx, "containerd.task.v2.Task", "Delete", &taskapi.DeleteRequest{ID: "c"}, &taskapi.DeleteResponse{}); err != nil {
		t.Error(err)
	}
	// The server may close the connection before the answer, as containerd knows.
	if _, err := tasks.Shutdown(ctx, &taskapi.ShutdownRequest{ID: "c"}); err != nil && !errors.Is(err, ttrpc.ErrClosed) {
		t.Error(err)
	}
	until(t, "the end of the shim", func() bool {
		pid, _ := unix.Wait4(int(info.ShimPid), nil, unix.WNOHANG, nil)
		return pid == int(info.ShimPid)
	})
	if _, err := os.Stat(part); !os.IsNotExist(err) {
		t.Errorf("the part is still there: %v", err)
	}
	if text, err := os.ReadFile(log); string(text) != "out\n" {
		t.Errorf("%q, %v", text, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if got := strings.Join(c.topics, " "); got != "test/tasks/create test/tasks/start test/tasks/exit test/tasks/delete" {
		t.Error(got)
	}
}
