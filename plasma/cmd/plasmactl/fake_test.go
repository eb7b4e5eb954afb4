package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/status"
)

var update = flag.Bool("update", false, "write the golden files anew")

// here is the package's directory: tests go to others.
var here string

func TestMain(m *testing.M) {
	var err error
	if here, err = os.Getwd(); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join(here, "testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; if it should, run the tests with -update. Got:\n%s", name, got)
	}
}

// fake is a plasmad that knows one service, files, and keeps what it was asked for.
type fake struct {
	api.UnimplementedClusterServer
	lock  sync.Mutex
	asked []string
	// fail, if set, is what every request comes to.
	fail error
	now  *status.Cluster
	// next has what Watch tells after the first.
	next   chan *status.Cluster
	record []byte
}

// plasmad starts a fake one and makes it plasmactl's.
func plasmad(t *testing.T) *fake {
	t.Helper()
	f := &fake{now: cluster(), next: make(chan *status.Cluster)}
	// Names of sockets are short: those of tests' directories may not be.
	dir, err := os.MkdirTemp("", "plasmactl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "p.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	api.RegisterClusterServer(s, f)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Setenv("PLASMA_SOCKET", socket)
	return f
}

func cluster() *status.Cluster {
	at := time.Date(2026, 3, 1, 14, 3, 20, 0, time.UTC)
	capacity := model.Resources{CPU: 4, Mem: 8 << 30}
	limit := model.Resources{CPU: 1, Mem: 512 << 20}
	return &status.Cluster{
		Version: status.Version, At: at, Cluster: "plasma", Leader: "node-b",
		Nodes: []status.Node{
			{Name: "node-a", Zone: "r1", Capacity: capacity, Up: true, Heard: at.Add(-time.Second)},
			{Name: "node-b", Capacity: capacity, Heard: at.Add(-95 * time.Second)},
			{Name: "node-c", Capacity: capacity, Up: true},
		},
		Services: []status.Service{{
			Name: "files", Version: 3, Image: "docker.io/library/files:2", Policy: level, Total: 1280, Planned: at.Add(-2 * time.Second),
			Servers: []status.Server{
				{ID: "files-1", Node: "node-a", State: model.Up, Limit: limit, Usage: model.Resources{CPU: 0.96, Mem: 300 << 20}, Queue: 31, Latency: model.Latency{P99: 84.2}, Actors: 640, Shards: 2048},
				{ID: "files-2", Node: "node-b", State: model.Draining, Limit: limit, Usage: model.Resources{CPU: 0.24, Mem: 100 << 20}, Latency: model.Latency{P99: 5.12}, Actors: 640, Shards: 2048, Why: "waits for Index/home19, which is pinned"},
				{ID: "files-3", Node: "node-a", State: model.Starting, Usage: model.Resources{CPU: 0.01}, Reserved: "Folder/home7"},
			},
			Actors: []status.Actor{
				{ID: "Folder/home7", Type: "Folder", Server: "files-1", Usage: model.Resources{CPU: 0.58, Mem: 9 << 20}, State: 3 << 20, Queue: 12},
				{ID: "File/\x1b[31mred", Type: "File", Server: "files-2", Usage: model.Resources{CPU: 0.02}, State: 4096},
				{ID: "Index/home19", Type: "Index", Server: "files-3", Usage: model.Resources{CPU: 0.005}},
			},
			Moves:   []status.Move{{ID: "9", Actor: "Folder/home7", From: "files-1", To: "files-3", Rule: "hot", Reason: "files-1 is at 96 %", Began: at}},
			Recent:  []status.Move{{ID: "8", Actor: "File/a", From: "files-2", To: "files-1", Rule: "level", Reason: "the mean", Began: at.Add(-time.Minute), Took: 14.2}, {ID: "7", Actor: "File/b", From: "files-1", To: "files-2", Rule: "level", Reason: "the mean", Began: at.Add(-2 * time.Minute), Refused: "files-2 drains"}},
			Trouble: []string{"image docker.io/library/files:3 can't be pulled"},
		}},
	}
}

// took keeps a request, and says what it comes to.
func (f *fake) took(service string, request proto.Message) error {
	f.lock.Lock()
	defer f.lock.Unlock()
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	f.asked = append(f.asked, fmt.Sprintf("%s %s", request.ProtoReflect().Descriptor().Name(), text))
	if f.fail != nil {
		return errgrpc.ToGRPC(f.fail)
	}
	if service != "" && service != "files" {
		return errgrpc.ToGRPC(fmt.Errorf("there is no service %s: %w", service, errdefs.ErrNotFound))
	}
	return nil
}

func (f *fake) Apply(_ context.Context, r *api.ApplyRequest) (*api.ApplyResponse, error) {
	if err := f.took("", r); err != nil {
		return nil, err
	}
	return &api.ApplyResponse{
		Changes:  []string{"the policy changes", "servers are started again, one at a time, with the image files:3"},
		Warnings: []string{"1:1: warning: servers are never given back: balance of Folder has only an upper bound", "no node has room for 8 servers"},
	}, nil
}

func (f *fake) Delete(_ context.Context, r *api.DeleteRequest) (*api.DeleteResponse, error) {
	return &api.DeleteResponse{}, f.took(r.Service, r)
}

func (f *fake) Status(_ context.Context, r *api.StatusRequest) (*api.StatusResponse, error) {
	if err := f.took(r.Service, r); err != nil {
		return nil, err
	}
	text, err := json.Marshal(f.now)
	return &api.StatusResponse{Status: text}, err
}

func (f *fake) Watch(r *api.StatusRequest, to grpc.ServerStreamingServer[api.StatusResponse]) error {
	if err := f.took(r.Service, r); err != nil {
		return err
	}
	for now := f.now; now != nil; {
		text, err := json.Marshal(now)
		if err != nil {
			return err
		}
		if err := to.Send(&api.StatusResponse{Status: text}); err != nil {
			return err
		}
		select {
		case now = <-f.next: // nil when it is closed
		case <-to.Context().Done():
			return to.Context().Err()
		}
	}
	return nil
}

func (f *fake) Plan(_ context.Context, r *api.PlanRequest) (*api.PlanResponse, error) {
	return &api.PlanResponse{Record: f.record}, f.took(r.Service, r)
}

func (f *fake) Move(_ context.Context, r *api.UserMoveRequest) (*api.UserMoveResponse, error) {
	return &api.UserMoveResponse{}, f.took(r.Service, r)
}

func (f *fake) Drain(_ context.Context, r *api.DrainRequest) (*api.DrainResponse, error) {
	return &api.DrainResponse{}, f.took(r.Service, r)
}

func (f *fake) Pause(_ context.Context, r *api.PauseRequest) (*api.PauseResponse, error) {
	return &api.PauseResponse{}, f.took(r.Service, r)
}

func (f *fake) Call(_ context.Context, r *api.CallRequest) (*api.CallResponse, error) {
	if err := f.took(r.Service, r); err != nil {
		return nil, err
	}
	if r.Function == "fail" {
		return &api.CallResponse{Error: "the disk is \x1b[31mfull"}, nil
	}
	return &api.CallResponse{Body: []byte(`{"n":` + fmt.Sprint(len(r.Body)) + `}`)}, nil
}

// last gives the last request.
func (f *fake) last() string {
	f.lock.Lock()
	defer f.lock.Unlock()
	if len(f.asked) == 0 {
		return ""
	}
	return f.asked[len(f.asked)-1]
}
