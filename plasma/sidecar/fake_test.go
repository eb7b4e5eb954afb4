package sidecar

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/placement"
)

const testToken = "token"

// fakeTurn notes what a turn does.
type fakeTurn struct {
	context.Context
	from   *placement.Actor
	caller fakeCaller

	sent       []sent
	timers     map[string]time.Duration
	cleared    []string
	references map[string][]placement.Actor
	metrics    map[string]float64
	deleted    bool
}

type sent struct {
	to             placement.Actor
	function, body string
}

func newTurn(t testing.TB) *fakeTurn {
	return &fakeTurn{
		Context: t.Context(), timers: map[string]time.Duration{},
		references: map[string][]placement.Actor{}, metrics: map[string]float64{},
	}
}

func (f *fakeTurn) Self() placement.Actor { return placement.Actor{Type: "T", Key: "k"} }

func (f *fakeTurn) From() (placement.Actor, bool) {
	if f.from == nil {
		return placement.Actor{}, false
	}
	return *f.from, true
}

func (f *fakeTurn) Call(ctx context.Context, to placement.Actor, function string, body []byte) ([]byte, error) {
	return f.caller.Call(ctx, to, function, body)
}

func (f *fakeTurn) Send(to placement.Actor, function string, body []byte) error {
	f.sent = append(f.sent, sent{to, function, string(body)})
	return nil
}

func (f *fakeTurn) SetTimer(name string, after, period time.Duration, _ []byte) error {
	f.timers[name] = after + period
	return nil
}

func (f *fakeTurn) ClearTimer(name string) { f.cleared = append(f.cleared, name) }

func (f *fakeTurn) References(property string, to ...placement.Actor) { f.references[property] = to }

func (f *fakeTurn) Metric(name string, value float64) { f.metrics[name] = value }

func (f *fakeTurn) Delete() { f.deleted = true }

// fakeCaller is a host that answers so.
type fakeCaller func(ctx context.Context, to placement.Actor, function string, body []byte) ([]byte, error)

func (f fakeCaller) Call(ctx context.Context, to placement.Actor, function string, body []byte) ([]byte, error) {
	return f(ctx, to, function, body)
}

// fakeApplication answers turns so; what it answers is encoded, unless it is text.
type fakeApplication struct {
	actor
	mu    sync.Mutex
	asked []turnRequest
}

func newFakeApplication(t testing.TB, handle func(w http.ResponseWriter, r turnRequest, n int) any) *fakeApplication {
	f := &fakeApplication{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer "+testToken {
			t.Errorf("Authorization is %q", got)
		}
		var request turnRequest
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			t.Error(err)
		}
		f.mu.Lock()
		f.asked = append(f.asked, request)
		n := len(f.asked)
		f.mu.Unlock()
		switch value := handle(w, request, n).(type) {
		case nil:
		case string:
			_, _ = w.Write([]byte(value))
		default:
			if err := json.NewEncoder(w).Encode(value); err != nil {
				t.Error(err)
			}
		}
	}))
	t.Cleanup(server.Close)
	f.application = newApplication(port(t, server.URL), testToken)
	t.Cleanup(f.application.Close)
	f.turns = newTurns(maxTurns)
	return f
}

// requests gives those there were.
func (f *fakeApplication) requests() []turnRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

func port(t testing.TB, address string) uint16 {
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(n)
}
