package bench

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// hotPolicy is what the hot spot is planned by: nothing in it is for one that is urgent.
const hotPolicy = `limits { servers 2..2; period 1s; } rule level: server.cpu.perc > 75 => balance({Burner}, cpu);`

// hotspot measures from when an actor's load begins to the first move because of it: when its
// server is overloaded, which hosts tell at once, and when it is only above the policy's bound.
func (b *plasmaBench) hotspot(ctx context.Context) error {
	l, err := b.single(ctx)
	if err != nil {
		return err
	}
	for _, way := range []struct {
		name    string
		clients int
		busy    time.Duration
		idle    time.Duration
		bound   float64
		note    string
	}{
		{"polling", 1, 24 * time.Millisecond, time.Millisecond, 2000, "its server is busy for some 90 %"},
		{"event-driven", 8, 20 * time.Millisecond, 0, 300, "8 clients wait for it all the time"},
	} {
		n, end := 10, time.Now().Add(2*time.Minute)
		if b.Quick {
			n, end = 3, time.Now().Add(4*time.Second)
		}
		var took Series
		for i := 0; i < n && (i < 1 || time.Now().Before(end)); i++ {
			b.Progress("measuring hot spots", int64(i), int64(n))
			ms, err := b.heat(ctx, l, way.clients, way.busy, way.idle)
			if err != nil {
				return fmt.Errorf("%s: %w", way.name, err)
			}
			took = append(took, ms)
		}
		b.against("hot-spot-to-move/"+way.name, Milliseconds, took, way.bound, way.note+
			": from its first message to the first move that is planned, by a policy with a bound of 75 % that plans each second; two servers of a core each")
	}
	return nil
}

// heat has an actor beside others hot, and gives after how many milliseconds something moves.
func (b *plasmaBench) heat(ctx context.Context, l *plasmaLive, clients int, busy, idle time.Duration) (float64, error) {
	if err := l.runs(ctx, "hot", hotPolicy, 2, "[limit]\ncpu = 1.0\n"); err != nil {
		return 0, err
	}
	burners, err := l.burners(ctx, 4)
	if err != nil {
		return 0, err
	}
	load, stop := context.WithCancel(ctx)
	defer stop()
	g, gctx := errgroup.WithContext(load)
	burn := func(key string, busy, idle time.Duration) {
		g.Go(func() error {
			for gctx.Err() == nil {
				if _, err := l.call(gctx, "hot", "Burner", key, "burn", fmt.Sprint(busy.Microseconds())); err != nil && gctx.Err() == nil {
					return err
				}
				select {
				case <-gctx.Done():
				case <-time.After(idle):
				}
			}
			return nil
		})
	}
	for _, key := range burners[1:] {
		burn(key, time.Millisecond, 50*time.Millisecond)
	}
	// The others are known before it begins, and nobody knows at which moment of a period.
	if err := l.until(ctx, "the others are known", func() error {
		s, err := l.service(ctx, "hot")
		if err == nil && s.Total < len(burners)-1 {
			err = fmt.Errorf("there are %d", s.Total)
		}
		return err
	}); err != nil {
		return 0, err
	}
	b.heats++
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(b.heats*370%1000) * time.Millisecond):
	}
	began := time.Now()
	for range clients {
		burn(burners[0], busy, idle)
	}
	var ms float64
	err = l.until(ctx, "something moves", func() error {
		s, err := l.service(gctx, "hot")
		if err != nil {
			return err
		}
		for _, m := range append(s.Moves, s.Recent...) {
			if ms = milliseconds(m.Began.Sub(began)); ms > 0 {
				return nil
			}
		}
		return fmt.Errorf("nothing moves: %+v", s.Decisions)
	})
	stop()
	if werr := g.Wait(); err == nil {
		err = werr
	}
	if err != nil {
		return 0, err
	}
	return ms, l.ends(ctx, "hot")
}

// burners are keys of burners that are all on one server.
func (l *plasmaLive) burners(ctx context.Context, n int) ([]string, error) {
	at, err := l.where(ctx, "hot", "Burner", "b", 1, n)
	if err != nil {
		return nil, err
	}
	for _, keys := range at {
		if len(keys) >= n {
			return keys[:n], nil
		}
	}
	return nil, fmt.Errorf("no server has %d burners: %v", n, at)
}
