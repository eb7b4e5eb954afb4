package driver

import (
	"context"
	"fmt"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Kind is what an event tells of.
type Kind string

// The kinds.
const (
	// Subscribed comes first, and again when containerd was away: what happened meanwhile was
	// missed, so servers are to be listed. What happens from now on is told.
	Subscribed Kind = "subscribed"
	// Exited: the process has ended.
	Exited Kind = "exited"
	// OutOfMemory: the kernel killed a process in the container for its memory.
	OutOfMemory Kind = "out of memory"
	// Deleted: the task is gone.
	Deleted Kind = "deleted"
)

// Event is what happened to a container.
type Event struct {
	Kind       Kind
	ID         string // of the container; "" if Kind is Subscribed
	Pid        uint32 // of what has ended
	ExitStatus uint32
	At         time.Time
}

// marker is a topic of the driver's own: when its event comes back, others do.
const marker = "/plasma/subscribed"

// Events tells what happens to all containers in the namespace, which is the driver's unless ctx
// has another, until ctx is done; then it closes the channel. The caller reads it without delay:
// containerd keeps what isn't read. An event may come twice. Of what Stop and Delete end not all may
// come: a shim that couldn't reach containerd at once is gone before it tries again. The error is
// that containerd doesn't answer now; later that is waited for.
func (d *Driver) Events(ctx context.Context) (<-chan Event, error) {
	ctx = d.in(ctx)
	s, err := d.subscribe(ctx)
	if err != nil {
		return nil, fmt.Errorf("subscribe to containerd's events: %w", err)
	}
	out := make(chan Event, 64)
	go func() {
		defer close(out)
		for ctx.Err() == nil {
			if err := s.follow(ctx, out); ctx.Err() == nil {
				log.G(ctx).WithError(err).Warn("containerd's events have ended; subscribing again")
			}
			s.end()
			if s = d.resubscribe(ctx); s == nil {
				return
			}
		}
		s.end()
	}()
	return out, nil
}

// subscription is a stream of events that has begun.
type subscription struct {
	end    context.CancelFunc
	early  []*events.Envelope // came while it was found out whether they come
	events <-chan *events.Envelope
	errs   <-chan error
}

// subscribe returns once events come. containerd doesn't say when, so it is given one until that
// is heard of.
func (d *Driver) subscribe(ctx context.Context) (*subscription, error) {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var filters []string
	for _, topic := range []string{runtime.TaskExitEventTopic, runtime.TaskOOMEventTopic, runtime.TaskDeleteEventTopic, marker} {
		filters = append(filters, fmt.Sprintf("topic==%q,namespace==%q", topic, namespace))
	}
	s := &subscription{end: cancel}
	s.events, s.errs = d.client.EventService().Subscribe(ctx, filters...)
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		if err := d.client.EventService().Publish(ctx, marker, &emptypb.Empty{}); err != nil {
			cancel()
			return nil, err
		}
		for waiting := true; waiting; {
			select {
			case e := <-s.events:
				if e.Topic == marker {
					return s, nil
				}
				s.early = append(s.early, e)
			case err := <-s.errs:
				cancel()
				return nil, ended(err)
			case <-again.C:
				waiting = false
			}
		}
	}
}

// resubscribe waits until containerd is there again; it returns nil when ctx is done.
func (d *Driver) resubscribe(ctx context.Context) *subscription {
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	for ctx.Err() == nil {
		if ok, err := d.client.IsServing(ctx); err == nil && ok {
			s, err := d.subscribe(ctx)
			if err == nil {
				return s
			}
			log.G(ctx).WithError(err).Debug("subscribe to containerd's events")
		}
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
	}
	return nil
}

// follow hands on what comes until the stream ends.
func (s *subscription) follow(ctx context.Context, out chan<- Event) error {
	send := func(e Event) bool {
		select {
		case out <- e:
			return true
		case <-ctx.Done():
			return false
		}
	}
	if !send(Event{Kind: Subscribed, At: time.Now()}) {
		return ctx.Err()
	}
	for {
		var envelope *events.Envelope
		if len(s.early) > 0 {
			envelope, s.early = s.early[0], s.early[1:]
		} else {
			select {
			case envelope = <-s.events:
			case err := <-s.errs:
				return ended(err)
			}
		}
		e, ok, err := decode(envelope)
		if err != nil {
			log.G(ctx).WithError(err).Warn("an event of containerd can't be read")
		}
		if ok && !send(e) {
			return ctx.Err()
		}
	}
}

// ended is why a stream has ended, which may be for no reason.
func ended(err error) error {
	if err == nil {
		return fmt.Errorf("containerd ended the stream: %w", errdefs.ErrUnavailable)
	}
	return err
}

// decode reads an event; ok is false for one of no interest, such as that of an exec.
func decode(envelope *events.Envelope) (e Event, ok bool, err error) {
	if envelope.Topic == marker || envelope.Event == nil {
		return e, false, nil
	}
	v, err := typeurl.UnmarshalAny(envelope.Event)
	if err != nil {
		return e, false, fmt.Errorf("event %s: %w", envelope.Topic, err)
	}
	e.At = envelope.Timestamp
	switch v := v.(type) {
	case *eventsapi.TaskExit:
		e.Kind, e.ID, e.Pid, e.ExitStatus = Exited, v.ContainerID, v.Pid, v.ExitStatus
		return e, v.ID == v.ContainerID, nil
	case *eventsapi.TaskOOM:
		e.Kind, e.ID = OutOfMemory, v.ContainerID
		return e, true, nil
	case *eventsapi.TaskDelete:
		e.Kind, e.ID, e.Pid, e.ExitStatus = Deleted, v.ContainerID, v.Pid, v.ExitStatus
		return e, v.ID == "" || v.ID == v.ContainerID, nil
	}
	return e, false, nil
}
