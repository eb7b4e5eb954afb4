package profile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/profile/cgroup"
	"github.com/peregrine-dev/peregrine/plasma/profile/scrape"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is containers that use what the test says.
type world struct {
	*testing.T
	*Sampler

	mu    sync.Mutex
	cores map[int]float64 // by process; gone if it is not there
	cost  time.Duration   // of a processor, for each reading
	open  int
	spent time.Duration
}

func newWorld(t *testing.T, flows Flows) *world {
	w := &world{T: t, cores: map[int]float64{}}
	w.Sampler = New("n", time.Second, flows)
	w.Sampler.open = func(pid int, _ string) (meter, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if _, ok := w.cores[pid]; !ok {
			return nil, errdefs.ErrNotFound
		}
		w.open++
		return &container{world: w, pid: pid, at: time.Now()}, nil
	}
	w.Sampler.spent = func() time.Duration {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.spent
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Sampler.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil || w.open != 0 {
			t.Errorf("run: %v; %d are open", err, w.open)
		}
	})
	return w
}

func (w *world) use(pid int, cores float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cores[pid] = cores
	if cores < 0 {
		delete(w.cores, pid)
	}
}

// container counts what is used between readings.
type container struct {
	*world
	pid int
	at  time.Time
	cpu time.Duration
}

func (c *container) Read() (cgroup.Reading, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cores, ok := c.cores[c.pid]
	if !ok {
		return cgroup.Reading{}, errdefs.ErrNotFound
	}
	now := time.Now()
	c.cpu += time.Duration(cores * float64(now.Sub(c.at)))
	c.at = now
	c.spent += c.cost
	return cgroup.Reading{At: now, CPU: c.cpu, Memory: 7}, nil
}

func (c *container) Network() (*os.File, error) { return nil, nil }

func (c *container) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.world.open--
}

// subscribe gives a function that gives the next profile.
func (w *world) subscribe(period time.Duration) (next func() *api.ProfileResponse) {
	ctx, cancel := context.WithCancel(w.Context())
	profiles := w.Subscribe(ctx, period)
	w.Cleanup(func() {
		cancel()
		for range profiles {
		}
	})
	return func() *api.ProfileResponse { return <-profiles }
}

func is(t *testing.T, p *api.ProfileResponse, urgent bool, window time.Duration, cpu ...float64) {
	t.Helper()
	var got []float64
	for _, s := range p.GetServers() {
		got = append(got, s.GetCpu())
	}
	if p.GetUrgent() != urgent || p.GetWindow() != int64(window) || fmt.Sprintf("%.3f", got) != fmt.Sprintf("%.3f", cpu) {
		t.Errorf("urgent %v, window %s, cpu %.3f; want %v, %s, %.3f", p.GetUrgent(), time.Duration(p.GetWindow()), got, urgent, window, cpu)
	}
}

func after(d time.Duration) {
	time.Sleep(d) // in a bubble's time
	synctest.Wait()
}

func TestWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.use(1, .2)
		w.use(2, .4)
		w.Set([]Target{{Service: "s", ID: "s-2", Pid: 2, Limit: 1}, {Service: "s", ID: "s-1", Pid: 1}})
		after(2500 * time.Millisecond)
		next := w.subscribe(10 * time.Second)
		is(t, next(), false, time.Second, .2, .4)
		after(5 * time.Second) // read at 3, ..., 7
		w.use(1, .7)
		is(t, next(), false, 10*time.Second, .45, .4)
		after(time.Second)
		w.use(2, .97) // seen at 14
		is(t, next(), true, time.Second, .7, .97)
		after(3 * time.Second)
		w.use(2, .1)
		after(2 * time.Second)
		w.use(2, 1) // no second urgent one before the next
		is(t, next(), false, 10*time.Second, .7, .748)
		w.use(2, -1)
		w.use(3, .5)
		after(1500 * time.Millisecond)
		w.Set([]Target{{Service: "s", ID: "s-2", Pid: 3, Limit: 1}})
		p := next()
		is(t, p, false, 10*time.Second, .5)
		if s := p.GetServers()[0]; !s.GetRunning() || s.GetMemory() != 7 || s.GetService() != "s" {
			t.Errorf("%v", s)
		}
		w.use(3, -1)
		is(t, next(), false, 10*time.Second, 0)
		w.use(3, 1) // another process with the same number
		if p := next(); p.GetServers()[0].GetRunning() {
			t.Errorf("%v", p)
		}
	})
}

func report(r *api.ReportRequest, cpu ...int64) *api.ReportRequest {
	r.Window = 1e9
	for i, c := range cpu {
		a := &api.Actor{Type: "A", Key: fmt.Sprint(i)}
		r.Actors = append(r.Actors, &api.ActorReport{Actor: a, Cpu: c})
		r.Calls = append(r.Calls, &api.CallReport{To: a, Function: "f", Count: 1})
	}
	return r
}

func TestReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.use(1, .2)
		w.Set([]Target{{ID: "s-1", Pid: 1}})
		w.Report("s-1", report(&api.ReportRequest{}, 5))
		w.Report("s-9", report(&api.ReportRequest{}, 5))
		after(0)
		next := w.subscribe(10 * time.Second)
		if got := next().GetServers()[0].GetReport(); len(got.GetActors()) != 1 {
			t.Errorf("at first: %v", got)
		}
		w.Report("s-1", report(&api.ReportRequest{}, 5, 1))
		w.Report("s-1", report(&api.ReportRequest{Overloaded: true}, 7, 3))
		w.Report("s-1", report(&api.ReportRequest{Overloaded: true}, 8, 4)) // is told once
		p := next()
		if got := p.GetServers()[0].GetReport(); !p.GetUrgent() || got.GetWindow() != 1e9 {
			t.Errorf("urgent: %v", p)
		}
		p = next()
		got := p.GetServers()[0].GetReport()
		if p.GetUrgent() || got.GetWindow() != 3e9 || got.GetActors()[0].GetCpu() != 20 || got.GetActors()[1].GetCpu() != 8 || got.GetCalls()[0].GetCount() != 3 {
			t.Errorf("regular: %v", p)
		}
		w.Report("s-1", report(&api.ReportRequest{}, 9))
		for range 2 { // the host says nothing more
			if got := next().GetServers()[0].GetReport(); got.GetWindow() != 1e9 || got.GetActors()[0].GetCpu() != 9 {
				t.Errorf("last: %v", got)
			}
		}
		w.Report("s-1", report(&api.ReportRequest{Overloaded: true}, 9))
		if p := next(); !p.GetUrgent() {
			t.Errorf("overloaded again: %v", p)
		}
	})
}

// What an overloaded server used before says nothing.
func TestFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.use(1, .1)
		w.Set([]Target{{ID: "s-1", Pid: 1, Limit: 1}})
		after(2500 * time.Millisecond)
		next := w.subscribe(10 * time.Second)
		is(t, next(), false, time.Second, .1)
		after(450 * time.Millisecond) // the turn at 3 s comes between its two readings
		w.use(1, .9)
		w.Report("s-1", report(&api.ReportRequest{Overloaded: true}, 5))
		began := time.Now()
		is(t, next(), true, moment, .9)
		if took := time.Since(began); took != moment {
			t.Errorf("told after %s", took)
		}
		is(t, next(), false, 10*time.Second, .9)
	})
}

func TestFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var bytes uint64
		var err error
		set := func(to uint64, e error) {
			mu.Lock()
			defer mu.Unlock()
			bytes, err = to, e
		}
		w := newWorld(t, func(context.Context) ([]*api.Flow, error) {
			mu.Lock()
			defer mu.Unlock()
			bytes += 100
			return []*api.Flow{{From: "a", To: "b", Bytes: bytes, Packets: 3}, {From: "c", To: "a", Bytes: 5}}, err
		})
		next := w.subscribe(time.Second)
		if p := next(); len(p.GetFlows()) != 0 {
			t.Errorf("%v", p)
		}
		passed := func(want uint64) {
			t.Helper()
			if got := next().GetFlows(); len(got) != 1 || got[0].GetBytes() != want || got[0].GetPackets() != 0 {
				t.Errorf("%v, want %d bytes", got, want)
			}
		}
		passed(100)
		set(200, errors.New("nobody counts"))
		if got := next().GetFlows(); len(got) != 0 {
			t.Errorf("%v", got)
		}
		set(300, nil)
		passed(200)
		set(50, nil) // they begin anew
		passed(150)
	})
}

// TestCost has readings that cost more than may be.
func TestCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.use(1, .2)
		w.cost = time.Millisecond
		w.Set([]Target{{ID: "s-1", Pid: 1}})
		after(20 * time.Second)
		if got := w.Cost(); got < .0009 || got > .0011 {
			t.Errorf("cost %v, want .001", got)
		}
		w.mu.Lock()
		w.cost = 50 * time.Millisecond
		w.mu.Unlock()
		after(5 * time.Minute)
		if got := w.Cost(); got > .01 {
			t.Errorf("cost %v, want .01 at most", got)
		}
		w.mu.Lock()
		before := w.spent
		w.mu.Unlock()
		after(100 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if took := w.spent - before; took > time.Second {
			t.Errorf("took %s of 100 s", took)
		}
	})
}

// TestSelf measures this process.
func TestSelf(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "inflight 4\n") }))
	defer server.Close()
	source, err := scrape.ParseSource(server.Listener.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s := New("n", 5*time.Millisecond, nil)
	s.Set([]Target{{ID: "s-1", Pid: os.Getpid(), Metrics: &source}})
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	found := false
	for p := range s.Subscribe(ctx, 0) {
		if one := p.GetServers()[0]; one.GetRunning() && one.GetCpu() > 0 && one.GetMetrics()["inflight"] == 4 && s.Cost() > 0 {
			found = true
			cancel()
		}
	}
	if err := <-ended; err != nil || !found {
		t.Errorf("found %v: %v", found, err)
	}
}
