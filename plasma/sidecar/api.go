package sidecar

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

const (
	callTime = 30 * time.Second // of a call outside of turns
	maxCalls = 1024             // under way at once, and sends
)

// caller calls actors, in the name of nobody: *host.Host.
type caller interface {
	Call(ctx context.Context, to placement.Actor, function string, body []byte) ([]byte, error)
}

// api is the way from the application: what it asks the sidecar for.
type api struct {
	token  []byte
	turns  *turns
	caller atomic.Pointer[caller] // nil until the host serves
	calls  atomic.Int64           // under way
}

func newAPI(token string, t *turns) *api { return &api{token: []byte("Bearer " + token), turns: t} }

// serve says that the host serves, and calls can be made.
func (a *api) serve(c caller) { a.caller.Store(&c) }

// ServeHTTP answers the application. Paths are looked at as they are: a key may hold what a
// ServeMux would clean.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, text, err := a.handle(w, r)
	if err != nil {
		fail(r.Context(), w, err)
		return
	}
	if text == nil {
		w.WriteHeader(status)
		return
	}
	answer(r.Context(), w, status, text)
}

func (a *api) handle(w http.ResponseWriter, r *http.Request) (status int, text []byte, err error) {
	path := r.URL.EscapedPath()
	if path == "/v1/health" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		if a.caller.Load() == nil {
			return 0, nil, errStarting
		}
		return http.StatusOK, []byte("{\"status\":\"ok\"}\n"), nil
	}
	given := []byte(r.Header.Get("Authorization"))
	if subtle.ConstantTimeCompare(given, a.token) == 0 {
		return 0, nil, fmt.Errorf("want the header Authorization: Bearer and $PLASMA_TOKEN: %w", errdefs.ErrUnauthenticated)
	}
	rest, call := strings.CutPrefix(path, "/v1/call/")
	if !call {
		var send bool
		if rest, send = strings.CutPrefix(path, "/v1/send/"); !send {
			return 0, nil, fmt.Errorf("there is no %q: %w", path, errdefs.ErrNotFound)
		}
	}
	if r.Method != http.MethodPost {
		return 0, nil, invalid("%s: want POST", r.Method)
	}
	if a.calls.Add(1) > maxCalls {
		a.calls.Add(-1)
		return 0, nil, fmt.Errorf("%d calls are under way: %w", maxCalls, errdefs.ErrResourceExhausted)
	}
	defer a.calls.Add(-1)
	to, function, err := parsePath(rest)
	if err != nil {
		return 0, nil, err
	}
	body, err := readBody(w, r)
	if err != nil {
		return 0, nil, err
	}
	if call {
		text, err = a.call(r, to, function, body)
		return http.StatusOK, text, err
	}
	return http.StatusNoContent, nil, a.send(r, to, function, body)
}

var errStarting = fmt.Errorf("the host of the actors doesn't serve yet: %w", errdefs.ErrUnavailable)

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, host.MaxBody))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, errTooLarge
		}
		return nil, invalid("read the body: %v", err)
	}
	return bodyOf(body)
}

func (a *api) call(r *http.Request, to placement.Actor, function string, body []byte) ([]byte, error) {
	var text []byte
	var err error
	if id := r.Header.Get("Plasma-Turn"); id != "" {
		turn, err := a.turns.find(id)
		if err != nil {
			return nil, err
		}
		if text, err = turn.call(r.Context(), to, function, body); err != nil {
			return nil, err
		}
	} else {
		caller := a.caller.Load()
		if caller == nil {
			return nil, errStarting
		}
		ctx, cancel := context.WithTimeout(r.Context(), callTime)
		defer cancel()
		if text, err = (*caller).Call(ctx, to, function, body); err != nil {
			return nil, err
		}
	}
	if text, err = bodyOf(text); err != nil {
		return nil, fmt.Errorf("%s answered %s with what isn't JSON: %w", to, function, errdefs.ErrInternal)
	}
	return text, nil
}

func (a *api) send(r *http.Request, to placement.Actor, function string, body []byte) error {
	id := r.Header.Get("Plasma-Turn")
	if id == "" {
		return invalid("only actors send, within a turn: want the header Plasma-Turn, or call instead")
	}
	turn, err := a.turns.find(id)
	if err != nil {
		return err
	}
	return turn.send(message{To: actorName{to.Type, to.Key}, Function: function, Body: body})
}
