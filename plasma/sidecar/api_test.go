package sidecar

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// startAPI serves an API of which the host answers so; none is one that doesn't serve yet.
func startAPI(t *testing.T, answer fakeCaller) (*api, string) {
	a := newAPI(testToken, newTurns(maxTurns))
	if answer != nil {
		a.serve(answer)
	}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return a, server.URL
}

// ask asks as the application does, and gives status, code of the error, and body.
func ask(t *testing.T, method, url, body string, headers ...string) (int, string, string, http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+testToken)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	f := failure{}
	if response.StatusCode >= 400 && method != http.MethodHead {
		if err := json.Unmarshal(text, &f); err != nil || f.Error.Message == "" {
			t.Errorf("%s %s: the error isn't as described: %q, %v", method, url, text, err)
		}
	}
	return response.StatusCode, f.Error.Code, string(text), response.Header
}

func echo(_ context.Context, to placement.Actor, function string, body []byte) ([]byte, error) {
	return []byte(fmt.Sprintf("[%q,%q,%q,%s]", to.Type, to.Key, function, body)), nil
}

func TestCalls(t *testing.T) {
	_, url := startAPI(t, echo)
	for _, c := range []struct{ path, body, want string }{
		{"/v1/call/T/k/f", `{"a": 1}`, `["T","k","f",{"a": 1}]`},
		{"/v1/call/T/k/f", ``, `["T","k","f",null]`},
		{"/v1/call/T/a%2Fb%20c/f", `1`, `["T","a/b c","f",1]`},
		{"/v1/call/T/../f", `1`, `["T","..","f",1]`},
	} {
		if status, _, text, _ := ask(t, "POST", url+c.path, c.body); status != 200 || text != c.want {
			t.Errorf("%s: %d %s, want %s", c.path, status, text, c.want)
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	a, url := startAPI(t, echo)
	for _, c := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		code                     string
	}{
		{"no token", "POST", "/v1/call/T/k/f", "1", []string{"Authorization", ""}, 401, "unauthenticated"},
		{"wrong token", "POST", "/v1/call/T/k/f", "1", []string{"Authorization", "Bearer Token"}, 401, "unauthenticated"},
		{"not JSON", "POST", "/v1/call/T/k/f", "x", nil, 400, "invalid"},
		{"too large", "POST", "/v1/call/T/k/f", `"` + strings.Repeat("x", host.MaxBody) + `"`, nil, 413, "too-large"},
		{"short path", "POST", "/v1/call/T/k", "1", nil, 400, "invalid"},
		{"long path", "POST", "/v1/call/T/k/f/g", "1", nil, 400, "invalid"},
		{"other path", "POST", "/v2/call/T/k/f", "1", nil, 404, "not-found"},
		{"GET", "GET", "/v1/call/T/k/f", "", nil, 400, "invalid"},
		{"no such turn", "POST", "/v1/call/T/k/f", "1", []string{"Plasma-Turn", "x"}, 412, "precondition"},
		{"send outside of turns", "POST", "/v1/send/T/k/f", "1", nil, 400, "invalid"},
		{"send of no such turn", "POST", "/v1/send/T/k/f", "1", []string{"Plasma-Turn", "x"}, 412, "precondition"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if status, code, _, _ := ask(t, c.method, url+c.path, c.body, c.headers...); status != c.status || code != c.code {
				t.Errorf("%d %s, want %d %s", status, code, c.status, c.code)
			}
		})
	}
	a.calls.Store(maxCalls)
	if status, code, _, h := ask(t, "POST", url+"/v1/call/T/k/f", "1"); status != 429 || code != "busy" || h.Get("Retry-After") != "1" {
		t.Errorf("of too many: %d %s %v", status, code, h)
	}
	if a.calls.Load() != maxCalls {
		t.Errorf("one that was refused is counted: %d", a.calls.Load())
	}
}

func TestErrorsOfHosts(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   string
		again  bool
	}{
		{&host.Error{Text: "no"}, 422, "refused", false},
		{errdefs.ErrInvalidArgument, 400, "invalid", false},
		{errdefs.ErrPermissionDenied, 403, "forbidden", false},
		{errdefs.ErrNotFound, 404, "not-found", false},
		{errdefs.ErrAborted, 409, "aborted", false},
		{errdefs.ErrFailedPrecondition, 412, "precondition", false},
		{errdefs.ErrResourceExhausted, 429, "busy", true},
		{errdefs.ErrUnavailable, 503, "unavailable", true},
		{context.DeadlineExceeded, 504, "timeout", false},
		{fmt.Errorf("%w: %w", context.DeadlineExceeded, errdefs.ErrUnavailable), 504, "timeout", false},
		{context.Canceled, 499, "canceled", false},
		{io.ErrUnexpectedEOF, 500, "internal", false},
	} {
		_, url := startAPI(t, func(context.Context, placement.Actor, string, []byte) ([]byte, error) {
			return nil, fmt.Errorf("call: %w", c.err)
		})
		status, code, text, h := ask(t, "POST", url+"/v1/call/T/k/f", "1")
		if status != c.status || code != c.code || (h.Get("Retry-After") != "") != c.again || !strings.Contains(text, c.err.Error()) {
			t.Errorf("%v: %d %s %v %s", c.err, status, code, h, text)
		}
	}
	_, url := startAPI(t, func(context.Context, placement.Actor, string, []byte) ([]byte, error) { return []byte{1}, nil })
	if status, code, _, _ := ask(t, "POST", url+"/v1/call/T/k/f", "1"); status != 500 || code != "internal" {
		t.Errorf("an answer that isn't JSON: %d %s", status, code)
	}
}

func TestHealth(t *testing.T) {
	a, url := startAPI(t, nil)
	if status, code, _, h := ask(t, "GET", url+"/v1/health", "", "Authorization", ""); status != 503 || code != "unavailable" || h.Get("Retry-After") == "" {
		t.Errorf("before: %d %s", status, code)
	}
	if status, code, _, _ := ask(t, "POST", url+"/v1/call/T/k/f", "1"); status != 503 || code != "unavailable" {
		t.Errorf("a call before: %d %s", status, code)
	}
	a.serve(fakeCaller(echo))
	for _, method := range []string{"GET", "HEAD"} {
		if status, _, _, _ := ask(t, method, url+"/v1/health", "", "Authorization", ""); status != 200 {
			t.Errorf("then %s: %d", method, status)
		}
	}
}

// Calls and sends that name a turn are the actor's, until the turn ends.
func TestWithinTurns(t *testing.T) {
	a, url := startAPI(t, func(context.Context, placement.Actor, string, []byte) ([]byte, error) {
		t.Error("the call isn't the turn's")
		return null, nil
	})
	turn := newTurn(t)
	turn.caller = echo
	at, err := a.turns.begin(turn)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, text, _ := ask(t, "POST", url+"/v1/call/T/k/f", "1", "Plasma-Turn", at.id); status != 200 || text != `["T","k","f",1]` {
		t.Errorf("call: %d %s", status, text)
	}
	if status, _, text, _ := ask(t, "POST", url+"/v1/send/T/k/f", "2", "Plasma-Turn", at.id); status != 204 || text != "" {
		t.Errorf("send: %d %s", status, text)
	}
	if a.turns.slots.free != maxTurns-1 {
		t.Errorf("%d slots are free", a.turns.slots.free)
	}
	sends := a.turns.end(at)
	if len(sends) != 1 || sends[0].To.Key != "k" || string(sends[0].Body) != "2" {
		t.Errorf("sent %v", sends)
	}
	for _, path := range []string{"/v1/call/T/k/f", "/v1/send/T/k/f"} {
		if status, code, _, _ := ask(t, "POST", url+path, "1", "Plasma-Turn", at.id); status != 412 || code != "precondition" {
			t.Errorf("%s when it has ended: %d %s", path, status, code)
		}
	}
	// One who has found it before is too late as well.
	if _, err := at.call(t.Context(), placement.Actor{}, "f", nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("%v", err)
	}
	if err := at.send(message{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("%v", err)
	}
	if a.turns.slots.free != maxTurns {
		t.Errorf("%d slots are free", a.turns.slots.free)
	}
}

// A turn that waits for a call leaves its slot to the one that it calls.
func TestSlotOfATurnThatCalls(t *testing.T) {
	turns := newTurns(1)
	turn := newTurn(t)
	var inner error
	turn.caller = func(context.Context, placement.Actor, string, []byte) ([]byte, error) {
		at, err := turns.begin(newTurn(t))
		if err == nil {
			turns.end(at)
		}
		inner = err
		return null, nil
	}
	at, err := turns.begin(turn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := at.call(t.Context(), placement.Actor{}, "f", nil); err != nil || inner != nil {
		t.Errorf("%v, %v", err, inner)
	}
	turns.end(at)
	if turns.slots.free != 1 {
		t.Errorf("%d slots are free", turns.slots.free)
	}
}

// Calls that are under way when the turn ends, end with it.
func TestCallsEndWithTheTurn(t *testing.T) {
	turns := newTurns(1)
	turn := newTurn(t)
	begun, ended := make(chan struct{}), make(chan error)
	turn.caller = func(ctx context.Context, _ placement.Actor, _ string, _ []byte) ([]byte, error) {
		close(begun)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	at, err := turns.begin(turn)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := at.call(t.Context(), placement.Actor{}, "f", nil)
		ended <- err
	}()
	<-begun
	turns.end(at)
	if err := <-ended; err == nil || turns.slots.free != 1 {
		t.Errorf("%v, %d slots are free", err, turns.slots.free)
	}
}

func TestSendsAreBounded(t *testing.T) {
	turns := newTurns(1)
	at, err := turns.begin(newTurn(t))
	if err != nil {
		t.Fatal(err)
	}
	defer turns.end(at)
	for range maxSends {
		if err := at.send(message{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := at.send(message{}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("too many: %v", err)
	}
	at.sends = nil
	if err := at.send(message{Body: make([]byte, maxSent+1)}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("too large: %v", err)
	}
}
