package global

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/place"
	"github.com/peregrine-dev/peregrine/plasma/place/embed"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ttl = 30 * time.Second // nothing waits for it

// lab is a manager with a real etcd and nodes whose hosts are made up.
type lab struct {
	*testing.T
	store   *place.Store
	mirror  *place.Mirror
	members map[string]*place.Membership
	manager *Manager
	reign   *reign

	mu    sync.Mutex
	hosts map[string]*fakeHost // by server
}

// fakeHost is a host that has actors.
type fakeHost struct {
	actors  []placement.Actor
	frozen  bool
	away    bool  // it doesn't answer
	thawed  int64 // the revision
	onAsked func()
}

// newLab has nodes n1, n2 and so on; the manager looks only when it is told to.
func newLab(t *testing.T, nodes int) *lab {
	t.Helper()
	m, err := embed.Start(t.Context(), embed.Config{Name: "test", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	l := &lab{T: t, store: place.New(m.Client(), "test"), members: map[string]*place.Membership{}, hosts: map[string]*fakeHost{}}
	if l.mirror, err = l.store.Mirror(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.mirror.Close)
	for i := 1; i <= nodes; i++ {
		l.join(fmt.Sprintf("n%d", i))
	}
	l.manager = New(Options{
		Cluster: "test", Period: time.Second, Store: l.store, Mirror: l.mirror, Membership: l.members["n1"], Nodes: l,
		Records: t.TempDir(), Metrics: NewMetrics(prometheus.NewRegistry()),
	})
	l.reign = l.elect()
	return l
}

func (l *lab) join(node string) {
	l.Helper()
	m, err := l.store.Join(l.Context(), place.Member{
		Node: node, Address: node + ":1", Capacity: model.Resources{CPU: 8, Mem: 8 << 30, Net: 1e9},
	}, ttl)
	if err != nil {
		l.Fatal(err)
	}
	l.members[node] = m
	l.Cleanup(func() { _ = m.Close(context.Background()) })
}

// elect begins a reign, which the test runs.
func (l *lab) elect() *reign {
	l.Helper()
	leader, err := l.store.Campaign(l.Context(), l.members["n1"])
	if err != nil {
		l.Fatal(err)
	}
	r := newReign(l.manager, leader)
	l.Cleanup(func() {
		for _, k := range r.services {
			k.close()
		}
		r.profiles.close()
		_ = leader.Resign(context.Background())
	})
	return r
}

// Profile is Nodes'.
func (l *lab) Profile(ctx context.Context, _ place.Member, _ time.Duration, got func(*api.ProfileResponse)) error {
	<-ctx.Done()
	return ctx.Err()
}

// Freeze is Nodes'.
func (l *lab) Freeze(_ context.Context, _ place.Member, r *api.NodeFreezeRequest) (*api.FreezeResponse, error) {
	l.mu.Lock()
	h := l.hosts[r.GetServer()]
	if h == nil || h.away {
		l.mu.Unlock()
		return nil, fmt.Errorf("%s does not answer: %w", r.GetServer(), errdefs.ErrUnavailable)
	}
	h.frozen = r.GetFrozen()
	if !h.frozen {
		h.thawed = r.GetRevision()
	}
	answer := &api.FreezeResponse{}
	for _, a := range h.actors {
		answer.Actors = append(answer.Actors, a.API())
	}
	asked := h.onAsked
	l.mu.Unlock()
	if asked != nil {
		asked()
	}
	return answer, nil
}

// apply stores a service.
func (l *lab) apply(spec, policy string, generation uint64) {
	l.Helper()
	v, _ := l.mirror.Service("s")
	v.Name, v.Spec, v.Policy, v.Generation = "s", "name = \"s\"\nimage = \"docker.io/library/s:1\"\n"+spec, policy, generation
	if _, err := l.store.PutService(l.Context(), v); err != nil {
		l.Fatal(err)
	}
	l.settle()
}

// settle waits until the mirror has what is in etcd.
func (l *lab) settle() {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), 10*time.Second)
	defer cancel()
	// What is written last is seen last.
	v, err := l.store.PutService(ctx, place.Service{Name: fmt.Sprintf("mark%d", time.Now().UnixNano()), Deleting: true})
	if err != nil {
		l.Fatal(err)
	}
	for {
		changed := l.mirror.Changed()
		if _, ok := l.mirror.Service(v.Name); ok {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			l.Fatal("the mirror is behind")
		}
	}
	if err := l.reign.RemoveService(ctx, v.Name); err != nil {
		l.Fatal(err)
	}
	for {
		changed := l.mirror.Changed()
		if _, ok := l.mirror.Service(v.Name); !ok {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			l.Fatal("the mirror is behind")
		}
	}
}

// keeper gives the service's, read.
func (l *lab) keeper() *keeper {
	l.Helper()
	k := l.reign.services["s"]
	if k == nil {
		k = &keeper{reign: l.reign, name: "s", frozen: true, blocked: map[string]string{}, missing: map[string]time.Time{}}
		l.reign.services["s"] = k
	}
	s, ok := l.mirror.Service("s")
	if !ok {
		l.Fatal("there is no service")
	}
	if err := k.read(l.Context(), s); err != nil {
		l.Fatal(err)
	}
	return k
}

// do runs a part of the keeper's work so many times.
func (l *lab) do(times int, part func(*keeper, context.Context) error) {
	l.Helper()
	for range times {
		if err := part(l.keeper(), l.Context()); err != nil {
			l.Fatal(err)
		}
		l.settle()
	}
}

// host registers the hosts of all servers that have none.
func (l *lab) host() {
	l.Helper()
	for _, s := range l.mirror.Servers("s") {
		if l.hosts[s.ID] != nil {
			continue
		}
		l.register(s.ID, s.Node)
	}
	l.settle()
}

func (l *lab) register(id, node string) place.Instance {
	l.Helper()
	i, err := l.members[node].Register(l.Context(), place.Instance{Service: "s", Server: id, Node: node, Address: id + ":1"})
	if err != nil {
		l.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hosts[id] == nil {
		l.hosts[id] = &fakeHost{}
	}
	return i
}

// running makes a service of n servers that are up and have shards.
func (l *lab) running(n int) (ids []string) {
	l.Helper()
	l.apply(fmt.Sprintf("[servers]\nmin = %d\nmax = 8\n", n), "", 1)
	l.do(1, func(k *keeper, ctx context.Context) error {
		for i := range n {
			if err := k.start(ctx, place.Server{Node: fmt.Sprintf("n%d", i%len(l.members)+1)}); err != nil {
				return err
			}
		}
		return nil
	})
	l.host()
	l.do(1, (*keeper).raiseUp)
	l.do(2, (*keeper).share)
	for _, s := range l.mirror.Servers("s") {
		ids = append(ids, s.ID)
	}
	if len(ids) != n {
		l.Fatalf("there are %v, want %d", ids, n)
	}
	return ids
}

// counts are the shards of each server.
func (l *lab) counts() map[string]int {
	table, _ := l.mirror.Table("s")
	n := map[string]int{}
	for _, id := range table.Servers {
		n[id] = table.Count(id)
	}
	return n
}

func (l *lab) state(id string) (model.State, bool) {
	all := l.mirror.Servers("s")
	i := slices.IndexFunc(all, func(s place.Server) bool { return s.ID == id })
	if i < 0 {
		return "", false
	}
	return all[i].State, all[i].Stopping
}
