package sidecar

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

func TestTurn(t *testing.T) {
	f := newFakeApplication(t, func(_ http.ResponseWriter, _ turnRequest, n int) any {
		if n > 1 {
			return map[string]any{"body": n}
		}
		return `{"body": "one", "state": {"n": 1}, "sends": [{"to": {"type": "U", "key": "x"}, "function": "g", "body": [1]}, {"to": {"type": "U", "key": "y"}, "function": "g"}],
			"timers": [{"name": "later", "after": 1.5, "period": 60}, {"name": "never", "clear": true}],
			"references": {"us": [{"type": "U", "key": "x"}], "none": []}, "metrics": {"m": 2.5}}`
	})
	turn := newTurn(t)
	turn.from = &placement.Actor{Type: "U", Key: "x"}
	body, err := f.take(turn, "f", []byte(`{"a": 1}`))
	if err != nil || string(body) != `"one"` {
		t.Fatalf("%q, %v", body, err)
	}
	want := []sent{{placement.Actor{Type: "U", Key: "x"}, "g", "[1]"}, {placement.Actor{Type: "U", Key: "y"}, "g", "null"}}
	if !slices.Equal(turn.sent, want) {
		t.Errorf("sent %v, want %v", turn.sent, want)
	}
	if turn.timers["later"] != 61500*time.Millisecond || !slices.Equal(turn.cleared, []string{"never"}) {
		t.Errorf("timers %v, cleared %v", turn.timers, turn.cleared)
	}
	if _, none := turn.references["none"]; !none || len(turn.references["us"]) != 1 || turn.metrics["m"] != 2.5 {
		t.Errorf("references %v, metrics %v", turn.references, turn.metrics)
	}
	// The state is kept, by an answer that doesn't have one too.
	for range 2 {
		if _, err := f.take(newTurn(t), "f", nil); err != nil {
			t.Fatal(err)
		}
	}
	first, last := f.requests()[0], f.requests()[2]
	if first.Type != "T" || first.Key != "k" || first.Function != "f" || string(first.Body) != `{"a":1}` || string(first.State) != "null" || *first.From != (actorName{"U", "x"}) {
		t.Errorf("first asked %+v", first)
	}
	if string(last.Body) != "null" || string(last.State) != `{"n":1}` || last.From != nil || last.Turn == first.Turn || last.Turn == "" {
		t.Errorf("last asked %+v", last)
	}
}

func TestStateIsStoredAndLoaded(t *testing.T) {
	f := newFakeApplication(t, func(http.ResponseWriter, turnRequest, int) any { return `{"state": [1, 2]}` })
	if _, err := f.take(newTurn(t), "f", nil); err != nil {
		t.Fatal(err)
	}
	state, err := f.Save()
	if err != nil {
		t.Fatal(err)
	}
	again := newFakeApplication(t, func(http.ResponseWriter, turnRequest, int) any { return `{}` })
	if err := again.Load(state); err != nil {
		t.Fatal(err)
	}
	if _, err := again.take(newTurn(t), "f", nil); err != nil || string(again.requests()[0].State) != "[1,2]" {
		t.Errorf("%s, %v", again.requests()[0].State, err)
	}
	if err := again.Load([]byte("{")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("%v", err)
	}
}

func TestNullEndsTheActor(t *testing.T) {
	f := newFakeApplication(t, func(http.ResponseWriter, turnRequest, int) any { return `{"state": null}` })
	f.state = []byte("1")
	turn := newTurn(t)
	if _, err := f.take(turn, "f", nil); err != nil || !turn.deleted || f.state != nil {
		t.Errorf("%v, deleted %t, state %q", err, turn.deleted, f.state)
	}
}

// Whatever is wrong with an answer, the turn fails and changes nothing.
func TestFailedTurns(t *testing.T) {
	for _, c := range []struct {
		name   string
		handle func(http.ResponseWriter) any
		is     func(error) bool
		want   string
	}{
		{"error", func(http.ResponseWriter) any { return `{"error": "no"}` }, func(err error) bool { return errors.As(err, new(*host.Error)) }, "no"},
		{"garbage", func(http.ResponseWriter) any { return `<html>` }, errdefs.IsInvalidArgument, "invalid character"},
		{"too much", func(http.ResponseWriter) any { return strings.Repeat(" ", maxAnswer+1) }, errdefs.IsInvalidArgument, "more than"},
		{"status", func(w http.ResponseWriter) any {
			w.WriteHeader(http.StatusBadGateway)
			return "down"
		}, errdefs.IsInternal, `502 Bad Gateway to /plasma/turn: "down"`},
		{"redirect", func(w http.ResponseWriter) any {
			w.Header().Set("Location", "/plasma/turn")
			w.WriteHeader(http.StatusTemporaryRedirect)
			return nil
		}, errdefs.IsInternal, "307"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakeApplication(t, func(w http.ResponseWriter, _ turnRequest, _ int) any { return c.handle(w) })
			f.state = []byte(`"before"`)
			turn := newTurn(t)
			_, err := f.take(turn, "f", nil)
			if err == nil || !c.is(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v: want %q", err, c.want)
			}
			if string(f.state) != `"before"` || len(turn.sent) > 0 || len(f.requests()) != 1 {
				t.Errorf("state %s, sent %v, asked %d times", f.state, turn.sent, len(f.requests()))
			}
		})
	}
}

func TestBodyThatIsNotJSON(t *testing.T) {
	f := newFakeApplication(t, func(http.ResponseWriter, turnRequest, int) any { return `{}` })
	if _, err := f.take(newTurn(t), "f", []byte("\x01")); !errdefs.IsInvalidArgument(err) || len(f.requests()) > 0 {
		t.Errorf("%v, asked %d times", err, len(f.requests()))
	}
}

// An application that breaks off is asked again, as another turn; what the first one sent is
// forgotten.
func TestTurnIsAskedAgain(t *testing.T) {
	var f *fakeApplication
	f = newFakeApplication(t, func(w http.ResponseWriter, r turnRequest, n int) any {
		at, err := f.turns.find(r.Turn)
		if err != nil {
			t.Error(err)
			return nil
		}
		if err := at.send(message{To: actorName{"U", "early"}, Function: "g", Body: null}); err != nil {
			t.Error(err)
		}
		if n < 3 {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return nil
			}
			if n == 2 {
				_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"))
			}
			conn.Close()
			return nil
		}
		return `{"body": 3, "sends": [{"to": {"type": "U", "key": "late"}, "function": "g"}]}`
	})
	turn := newTurn(t)
	body, err := f.take(turn, "f", nil)
	if err != nil || string(body) != "3" {
		t.Fatalf("%s, %v", body, err)
	}
	if len(turn.sent) != 2 || turn.sent[0].to.Key != "early" || turn.sent[1].to.Key != "late" {
		t.Errorf("sent %v", turn.sent)
	}
	if f.requests()[0].Turn == f.requests()[1].Turn {
		t.Error("the second time has the first one's name")
	}
	if _, err := f.turns.find(f.requests()[2].Turn); !errors.Is(err, errNoTurn) {
		t.Errorf("the turn has ended: %v", err)
	}
}

// A message that the application can't bear isn't tried for ever.
func TestTurnThatIsBrokenOff(t *testing.T) {
	f := newFakeApplication(t, func(w http.ResponseWriter, _ turnRequest, _ int) any {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			conn.Close()
		}
		return nil
	})
	if _, err := f.take(newTurn(t), "f", nil); !errdefs.IsAborted(err) || len(f.requests()) != maxBroken {
		t.Errorf("%v, asked %d times", err, len(f.requests()))
	}
}

func TestTurnHasItsTime(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // nobody is there
	f := &fakeApplication{actor: actor{application: newApplication(port(t, "http://"+l.Addr().String()), testToken), turns: newTurns(1)}}
	turn := newTurn(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	turn.Context = ctx
	if _, err := f.take(turn, "f", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if f.turns.slots.free != 1 || len(f.turns.by) > 0 {
		t.Errorf("%d slots are free, %d turns are known", f.turns.slots.free, len(f.turns.by))
	}
}

func TestTurnsOfAnApplicationThatIsBusy(t *testing.T) {
	f := newFakeApplication(t, func(http.ResponseWriter, turnRequest, int) any { return `{}` })
	f.turns = newTurns(0)
	turn := newTurn(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	turn.Context = ctx
	if _, err := f.take(turn, "f", nil); !errors.Is(err, context.Canceled) || len(f.requests()) > 0 {
		t.Errorf("%v, asked %d times", err, len(f.requests()))
	}
}

// BenchmarkTurn is a turn of an application that does nothing, with 1 KiB of state, one at a time.
func BenchmarkTurn(b *testing.B) {
	answer := `{"state": "` + strings.Repeat("x", 1024) + `"}`
	f := newFakeApplication(b, func(http.ResponseWriter, turnRequest, int) any { return answer })
	turn := newTurn(b)
	for b.Loop() {
		if _, err := f.take(turn, "f", []byte("1")); err != nil {
			b.Fatal(err)
		}
	}
}
