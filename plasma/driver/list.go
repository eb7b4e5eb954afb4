package driver

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/peregrine-dev/peregrine/plasma/service"
)

// State is what a container's process does.
type State string

// The states.
const (
	StateRunning State = "running"
	StatePaused  State = "paused"
	StateCreated State = "created" // and not started: the driver was killed meanwhile
	StateStopped State = "stopped" // or there is none any more
	StateUnknown State = "unknown" // containerd can't say; it is asked again
)

// Running is a container as it is.
type Running struct {
	ID        string
	Namespace string // containerd's
	Service   string // of a server, as are Node, Version and Address
	Node      string
	Version   uint64
	Address   netip.Addr // in its network of CNI
	State     State
	Pid       uint32 // 0 if no process is there
	// Cgroup is the process's, below where cgroups are mounted: in the hierarchy of CPU where
	// there are several.
	Cgroup string
	// Of a process that has ended, as far as it is known.
	ExitStatus uint32
	ExitedAt   time.Time
}

// List gives all servers that have a container on this node, by ID.
func (d *Driver) List(ctx context.Context) ([]Running, error) {
	all, err := d.list(d.in(ctx), fmt.Sprintf("labels.%q", LabelServer))
	if err != nil {
		return nil, fmt.Errorf("list servers: %w", err)
	}
	return all, nil
}

// Adopted gives the containers that a service adopts, by ID.
func (d *Driver) Adopted(ctx context.Context, a *service.Adopt) ([]Running, error) {
	all, err := d.list(namespaces.WithNamespace(ctx, a.Namespace), labelFilter(a.Labels))
	if err != nil {
		return nil, fmt.Errorf("list containers to adopt in namespace %s: %w", a.Namespace, err)
	}
	return all, nil
}

// labelFilter is containerd's filter for containers that have all labels.
func labelFilter(labels map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, fmt.Sprintf("labels.%q==%q", name, labels[name]))
	}
	return strings.Join(parts, ",")
}

func (d *Driver) list(ctx context.Context, filter string) ([]Running, error) {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	records, err := d.client.ContainerService().List(ctx, filter)
	if err != nil {
		return nil, err
	}
	// One call for all tasks: a node may have hundreds.
	answer, err := d.client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	processes := map[string]*tasktypes.Process{}
	for _, p := range answer.Tasks {
		processes[p.ID] = p
	}
	all := make([]Running, 0, len(records))
	for _, c := range records {
		r := Running{ID: c.ID, Namespace: namespace, Service: c.Labels[LabelService], Node: c.Labels[LabelNode], State: StateStopped}
		// Of containers that aren't servers these say nothing.
		r.Version, _ = strconv.ParseUint(c.Labels[LabelVersion], 10, 64)
		r.Address, _ = netip.ParseAddr(c.Labels[LabelAddress])
		if p := processes[c.ID]; p != nil {
			r.take(p)
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b Running) int { return strings.Compare(a.ID, b.ID) })
	return all, nil
}

// take takes over what is known of a container's process.
func (r *Running) take(p *tasktypes.Process) {
	r.State = stateOf(p.Status)
	if r.State == StateStopped {
		r.ExitStatus = p.ExitStatus
		if p.ExitedAt != nil {
			r.ExitedAt = p.ExitedAt.AsTime()
		}
		return
	}
	r.Pid = p.Pid
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.Pid)); err == nil { // it may have ended meanwhile
		r.Cgroup = cgroup(string(text))
	}
}

// cgroup finds in what /proc/PID/cgroup says the cgroup that counts CPU: that of version 1 if
// there is one, else that of version 2.
func cgroup(text string) (path string) {
	for line := range strings.Lines(text) {
		// HIERARCHY:CONTROLLERS:PATH
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) < 3 || !strings.HasPrefix(parts[2], "/") {
			continue
		}
		if slices.Contains(strings.Split(parts[1], ","), "cpu") {
			return parts[2]
		}
		if parts[0] == "0" && parts[1] == "" {
			path = parts[2]
		}
	}
	return path
}
