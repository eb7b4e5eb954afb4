package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Rates of the flood in packets per second. What high sends beside it in the second part is
// a tenth of what a core can take of the slow path, about.
const (
	floodRate = 250_000
	highRate  = 50_000
)

const (
	floodTime   = 500 * time.Millisecond
	floodSettle = 100 * time.Millisecond
	servedTime  = time.Second
)

// flooded is a lab's containers with a class, and the sockets between them.
type flooded struct {
	high, low lodgers
	near, far int   // of high, connected
	flood     *flow // of low
	sink      int
	busy      *flow // of high, to a sink
	busySink  int
}

// startFloods makes the containers with a class.
func (b *netBench) startFloods(ctx context.Context) error {
	if err := b.split(); err != nil {
		return err
	}
	b.flooded = map[string]*flooded{}
	for _, way := range ways {
		f, lab := &flooded{}, b.labs[way]
		b.flooded[way] = f
		var err error
		if f.high, err = b.lodgers(ctx, lab, "high"); err != nil {
			return err
		}
		if f.low, err = b.lodgers(ctx, lab, "low"); err != nil {
			return err
		}
		if f.near, f.far, err = b.packets(f.high); err != nil {
			return err
		}
		if f.flood, f.sink, err = b.flow(f.low, floodRate); err != nil {
			return err
		}
		if f.busy, f.busySink, err = b.flow(f.high, highRate); err != nil {
			return err
		}
	}
	return nil
}

// floods measures round trips of high without a flood of low and beside it, and what of the
// flood arrives.
func (b *netBench) floods(ctx context.Context, s samples, round int) error {
	for _, way := range turn(round, ways) {
		if err := awake(func() error { return b.oneFlood(ctx, way, b.flooded[way], s) }); err != nil {
			return fmt.Errorf("%s: %w", way, err)
		}
	}
	return nil
}

func (b *netBench) oneFlood(ctx context.Context, way string, f *flooded, s samples) error {
	idle, err := trips(f.near, f.far, nearCore, payload, floodTime)
	if err != nil {
		return err
	}
	s.add("idle-p99", way, idle.quantile(0.99))
	var took tripped
	share, rate, err := f.beside(ctx, func() (err error) {
		took, err = trips(f.near, f.far, nearCore, payload, floodTime)
		return err
	})
	if err != nil {
		return err
	}
	s.add("prio-avg", way, took.mean())
	s.add("prio-p99", way, took.quantile(0.99))
	s.add("prio-lost", way, float64(took.lost)/float64(len(took.Series)))
	s.add("delivered", way, share)
	s.add("flooded", way, rate)
	share, _, err = f.beside(ctx, func() error { return wait(ctx, floodTime) }, f.busy)
	s.add("delivered-busy", way, share)
	return err
}

// beside runs do while low floods, and other flows are sent. It returns what share of the
// flood's packets arrived, and how many were sent per second.
func (f *flooded) beside(ctx context.Context, do func() error, others ...*flow) (share, rate float64, err error) {
	var before, after, sent int64
	var took time.Duration
	err = during(ctx, floodSettle, append([]*flow{f.flood}, others...), func() (err error) {
		if before, err = sunk(f.sink); err != nil {
			return err
		}
		sent = f.flood.sent.Load()
		began := time.Now()
		if err := do(); err != nil {
			return err
		}
		took = time.Since(began)
		sent = f.flood.sent.Load() - sent
		after, err = sunk(f.sink)
		return err
	})
	if err == nil && sent == 0 {
		err = errors.New("nothing of a flood was sent")
	}
	// Of nothing there would be no ratio.
	return float64(max(after-before, 1)) / float64(sent), float64(sent) / took.Seconds(), err
}

// startCaching makes a memcached of class high on the far node, with its client.
func (b *netBench) startCaching(ctx context.Context) error {
	if err := b.startFloods(ctx); err != nil {
		return err
	}
	for _, way := range ways {
		f := b.flooded[way]
		if err := b.memcached(ctx, f.high.b, f.high.a); err != nil {
			return err
		}
		if err := fillCache(f.high.a, f.high.b); err != nil {
			return err
		}
	}
	return nil
}

// caching measures the latency of memcached beside a flood of low.
func (b *netBench) caching(ctx context.Context, s samples, round int) error {
	for _, way := range turn(round, ways) {
		if err := awake(func() error { return b.oneCaching(ctx, way, b.flooded[way], s) }); err != nil {
			return fmt.Errorf("%s: %w", way, err)
		}
	}
	return nil
}

func (b *netBench) oneCaching(ctx context.Context, way string, f *flooded, s samples) (err error) {
	c, err := newCacheLoad(f.high.a, f.high.b)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	var took Series
	share, _, err := f.beside(ctx, func() (err error) {
		took, err = c.run(servedTime)
		return err
	})
	if err != nil {
		return err
	}
	s.add("memcached-p99", way, took.quantile(0.99))
	s.add("memcached-median", way, took.Median())
	s.add("memcached-delivered", way, share)
	return nil
}

// startServing makes an nginx of class high on the far node.
func (b *netBench) startServing(ctx context.Context) error {
	if err := b.startFloods(ctx); err != nil {
		return err
	}
	for _, way := range ways {
		if err := b.nginx(ctx, b.flooded[way].high.b, b.flooded[way].high.a); err != nil {
			return err
		}
	}
	return nil
}

// serving measures how many pages a web server gives beside a flood of low.
func (b *netBench) serving(ctx context.Context, s samples, round int) error {
	for _, way := range turn(round, ways) {
		f := b.flooded[way]
		var rate, share float64
		err := awake(func() (err error) {
			share, _, err = f.beside(ctx, func() (err error) {
				rate, err = b.wrk(ctx, f.high.a, f.high.b)
				return err
			})
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", way, err)
		}
		s.add("web-serving", way, max(rate, 1)) // as above
		s.add("web-delivered", way, share)
	}
	return nil
}
