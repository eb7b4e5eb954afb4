package sidecar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

const (
	dialTime  = time.Second
	firstWait = 10 * time.Millisecond // before the application is asked again
	maxWait   = time.Second
	asking    = 5 * time.Second // for the application's types, once
)

// application is the way to the application. It may be used by several goroutines at once.
type application struct {
	url    string
	token  string
	client *http.Client
}

// newApplication gives the application at a port of the loopback, which knows the sidecar by the
// token. Close ends it.
func newApplication(port uint16, token string) *application {
	dialer := &net.Dialer{Timeout: dialTime}
	return &application{
		url:   fmt.Sprintf("http://127.0.0.1:%d", port),
		token: token,
		client: &http.Client{
			// No proxy, whatever the environment says: it is on the loopback.
			Transport: &http.Transport{
				DialContext:         dialer.DialContext,
				MaxIdleConnsPerHost: maxTurns,
				IdleConnTimeout:     30 * time.Second,
				DisableCompression:  true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Close ends the connections that nobody uses.
func (a *application) Close() { a.client.CloseIdleConnections() }

// types asks the application for its types until it answers or ctx ends. An answer that makes no
// sense is ErrInvalidArgument.
func (a *application) types(ctx context.Context) (*typesAnswer, error) {
	var wait backoff
	for {
		once, cancel := context.WithTimeout(ctx, asking)
		text, err := a.ask(once, http.MethodGet, "/plasma/types", nil, maxTypes)
		cancel()
		if err == nil {
			t := &typesAnswer{}
			if err := decode(text, t); err != nil {
				return nil, fmt.Errorf("the application's types: %w", err)
			}
			return t, t.check()
		}
		log.G(ctx).WithError(err).Debug("the application doesn't say its types yet")
		if !wait.pause(ctx) {
			return nil, fmt.Errorf("ask the application for its types: %w: last: %w", ctx.Err(), err)
		}
	}
}

// turn asks for a turn, once. ErrUnavailable is an application that isn't there, and ErrAborted
// one that broke off before it had answered: it may be asked again, as nothing of the turn has
// taken effect.
func (a *application) turn(ctx context.Context, r *turnRequest) (*turnAnswer, error) {
	text, err := encode(r)
	if err != nil {
		return nil, invalid("%v", err)
	}
	if text, err = a.ask(ctx, http.MethodPost, "/plasma/turn", text, maxAnswer); err != nil {
		return nil, err
	}
	answer, err := decodeAnswer(text)
	if err != nil {
		return nil, fmt.Errorf("the application's answer: %w", err)
	}
	return answer, nil
}

func (a *application) ask(ctx context.Context, method, path string, body []byte, most int64) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, a.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+a.token)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := a.client.Do(request)
	if err != nil {
		return nil, unreached(ctx, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, most+1))
	switch {
	case err != nil:
		return nil, unreached(ctx, err)
	case int64(len(text)) > most:
		return nil, invalid("the application's answer has more than %d bytes", most)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the application answered %s to %s: %.200q: %w", response.Status, path, text, errdefs.ErrInternal)
	}
	return text, nil
}

func unreached(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("ask the application: %w", context.Cause(ctx))
	}
	class := error(errdefs.ErrAborted)
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
		class = errdefs.ErrUnavailable
	}
	return fmt.Errorf("ask the application: %w: %w", err, class)
}

// backoff waits longer each time. The zero value is ready.
type backoff struct{ next time.Duration }

// pause waits and says true, or false if ctx ends before.
func (b *backoff) pause(ctx context.Context) bool {
	b.next = min(max(2*b.next, firstWait), maxWait)
	t := time.NewTimer(b.next)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
