package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"golang.org/x/sync/errgroup"
)

// bursts measures n starts at once, of ours and of a peer.
func (b *shimBench) bursts(ctx context.Context, n int, peer string, s samples, round int) error {
	return b.inTurn(round, []string{flashcube, peer}, func(r shimRuntime) error {
		return b.burst(ctx, r, n, s)
	})
}

// burst starts n containers at once.
func (b *shimBench) burst(ctx context.Context, r shimRuntime, n int, s samples) (err error) {
	all := make([]containerd.Container, 0, n)
	defer func() {
		for _, c := range all {
			err = errors.Join(err, remove(ctx, c))
		}
	}()
	for range n {
		c, cerr := b.newContainer(ctx, r)
		if cerr != nil {
			return cerr
		}
		all = append(all, c)
	}
	if err := b.steady(ctx); err != nil {
		return err
	}
	what := fmt.Sprintf("burst-%d", n)
	if r.name == flashcube {
		s.add(what+"-parts", r.name, float64(b.pool.Ready()))
	}
	tasks := make([]containerd.Task, n)
	began := time.Now()
	err = atOnce(n, func(i int) (err error) {
		tasks[i], _, err = start(ctx, all[i])
		return err
	})
	took := time.Since(began)
	if err != nil {
		return err
	}
	s.add(what, r.name, float64(n)/took.Seconds())
	return atOnce(n, func(i int) error {
		if err := kill(ctx, tasks[i]); err != nil {
			return err
		}
		_, err := tasks[i].Delete(ctx)
		return err
	})
}

// atOnce calls fn for 0 to n-1 and waits for all.
func atOnce(n int, fn func(int) error) error {
	var g errgroup.Group
	for i := range n {
		g.Go(func() error { return fn(i) })
	}
	return g.Wait()
}

// cold measures starts while no part is ready and nobody makes any.
func (b *shimBench) cold(ctx context.Context, s samples, round int) error {
	if round == 0 {
		if err := b.pool.Drain(); err != nil {
			return err
		}
	}
	return b.inTurn(round, []string{flashcube, crun}, func(r shimRuntime) (err error) {
		c, err := b.newContainer(ctx, r)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, remove(ctx, c)) }()
		if err := collect(ctx, b.client); err != nil {
			return err
		}
		if err := settle(b.dir); err != nil {
			return err
		}
		task, took, err := start(ctx, c)
		if err != nil {
			return err
		}
		s.add("cold", r.name, milliseconds(took))
		if err := kill(ctx, task); err != nil {
			return err
		}
		_, err = task.Delete(ctx)
		return err
	})
}
