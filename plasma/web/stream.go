package web

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sync/errgroup"

	"github.com/peregrine-dev/peregrine/plasma/status"
)

const (
	// pace is the least time between two statuses of a stream.
	pace = 250 * time.Millisecond
	// alive is how often a stream says something, so that a reader that is gone is noticed.
	alive = 15 * time.Second
	// patience is how long a reader may take for a status.
	patience = 10 * time.Second
	// retry is when a page asks again that lost its stream.
	retry = 2 * time.Second
)

type server struct {
	watch   Watch
	streams chan struct{} // a token for each that is open
}

var (
	// errSeen ends a watch that has told what was wanted.
	errSeen = errors.New("seen")
	// errNoStatus is a watch that ended by itself.
	errNoStatus = errors.New("the status is not known")
)

func (s *server) status(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	var now *status.Cluster
	err := s.watch(ctx, func(c *status.Cluster) error {
		now = c
		return errSeen
	})
	if now == nil {
		http.Error(w, fmt.Sprintf("%v: %v", errNoStatus, err), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(now); err != nil {
		log.G(r.Context()).WithError(err).Debug("a status was not read to its end")
	}
}

func (s *server) events(w http.ResponseWriter, r *http.Request) {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		w.Header().Set("Retry-After", "10")
		http.Error(w, fmt.Sprintf("%d pages are being kept up to date: close one", MaxStreams), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	latest := make(chan *status.Cluster, 1)
	g, ctx := errgroup.WithContext(r.Context())
	g.Go(func() error {
		err := s.watch(ctx, func(c *status.Cluster) error {
			// Only this goroutine sends: there is room once what nobody took is gone.
			select {
			case <-latest:
			default:
			}
			latest <- c
			return nil
		})
		return fmt.Errorf("%w: %w", errNoStatus, cmp.Or(err, io.EOF))
	})
	out := &stream{to: w, control: http.NewResponseController(w)}
	g.Go(func() error { return out.send(ctx, latest) })
	err := g.Wait()
	if r.Context().Err() != nil {
		return // the page was closed
	}
	log.G(r.Context()).WithError(err).Debug("the stream of a page ended")
	if errors.Is(err, errNoStatus) {
		_ = out.event("trouble", err.Error()) // the page asks again, whether it has read it or not
	}
}

// stream is a reader of statuses.
type stream struct {
	to      http.ResponseWriter
	control *http.ResponseController
}

// send tells each status that is the latest when there is time for it.
func (o *stream) send(ctx context.Context, latest <-chan *status.Cluster) error {
	if err := o.write(fmt.Appendf(nil, "retry: %d\n\n", retry.Milliseconds())); err != nil {
		return err
	}
	idle := time.NewTicker(alive)
	defer idle.Stop()
	next := time.NewTicker(pace)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-idle.C:
			if err := o.write([]byte(":\n\n")); err != nil {
				return err
			}
			continue
		case c := <-latest:
			if err := o.event("status", c); err != nil {
				return err
			}
		}
		next.Reset(pace)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next.C:
		}
	}
}

// event sends a value with its kind.
func (o *stream) event(kind string, v any) error {
	text, err := json.Marshal(v) // has no line breaks
	if err != nil {
		return err
	}
	return o.write(fmt.Appendf(nil, "event: %s\ndata: %s\n\n", kind, text))
}

func (o *stream) write(text []byte) error {
	// A recorder in a test has no deadlines, and needs none.
	if err := o.control.SetWriteDeadline(time.Now().Add(patience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := o.to.Write(text); err != nil {
		return err
	}
	return o.control.Flush()
}
