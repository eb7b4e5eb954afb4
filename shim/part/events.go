package part

import (
	"context"

	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"
)

// events sends what happens to containerd, in order, without keeping anybody waiting.
type events struct {
	queue chan any
	done  chan struct{} // closed when the last is sent
}

func newEvents() *events {
	const most = 128
	return &events{queue: make(chan any, most), done: make(chan struct{})}
}

func (e *events) send(event any) { e.queue <- event }

// forward publishes until stop is closed and nothing is left.
func (e *events) forward(ctx context.Context, publisher shim.Publisher, stop <-chan struct{}) {
	defer close(e.done)
	publish := func(event any) {
		if err := publisher.Publish(ctx, runtime.GetTopic(event), event); err != nil {
			log.G(ctx).WithError(err).Error("post an event")
		}
	}
	for {
		select {
		case event := <-e.queue:
			publish(event)
		case <-stop:
			for {
				select {
				case event := <-e.queue:
					publish(event)
				default:
					return
				}
			}
		}
	}
}
