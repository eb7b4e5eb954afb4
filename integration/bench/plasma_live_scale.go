package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/shim/pool"
)

// scaling measures from when a server is decided on to the first answer of an actor on it, with
// FlashCube and with runc.
func (b *plasmaBench) scaling(ctx context.Context) error {
	l, err := b.single(ctx)
	if err != nil {
		return err
	}
	n, end := 20, time.Now().Add(2*time.Minute)
	if b.Quick {
		n, end = 3, time.Now().Add(8*time.Second)
	}
	s := samples{}
	for i := 0; i < n && (i < 2 || time.Now().Before(end)); i++ {
		b.Progress("measuring new servers", int64(i), int64(n))
		for _, name := range turn(i, []string{flashcube, runc}) {
			serving, starting, err := b.scaleOut(ctx, l, name)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			s.add("serving", name, serving)
			s.add("starting", name, starting)
		}
	}
	b.rows = append(b.rows, Compare("scale-out-to-serving", Milliseconds, s["serving"][flashcube], runc, s["serving"][runc],
		fmt.Sprintf("from when a server is decided on to the first answer of a new actor there; the bound is 60 ms with flashcube; of it %s and %s ms are to have containerd make and start the container",
			Digits(s["starting"][flashcube].Median()), Digits(s["starting"][runc].Median()))))
	status, err := pool.ReadStatus(l.pool.Root)
	if err != nil {
		return err
	}
	for _, p := range status.Profiles {
		if len(p.Fallbacks) > 0 {
			return fmt.Errorf("flashcube left containers to another runtime: %v", p.Fallbacks)
		}
	}
	return nil
}

// scaleOut has a service of one server get another one, and gives how long it took in milliseconds
// until that served, and how much of it was the container's start.
func (b *plasmaBench) scaleOut(ctx context.Context, l *plasmaLive, name string) (serving, starting float64, err error) {
	runtime := map[string]string{flashcube: harness.FlashcubeRuntime, runc: runcRuntime}[name]
	more := fmt.Sprintf("runtime = %q\n[servers]\nmax = 4\n", runtime)
	policy := func(least int) string { return fmt.Sprintf("limits { servers %d..4; period 200ms; }", least) }
	id := "wide-" + name
	if err := l.apply(ctx, id, policy(1), "/app/plasma-app", more); err != nil {
		return 0, 0, err
	}
	key := 0
	// A new actor each time: those that there are stay where they are.
	next := func() (string, error) {
		key++
		server, err := l.call(ctx, id, "Probe", fmt.Sprint("k-", key), "where", "")
		return string(server), err
	}
	first, err := next()
	if err != nil {
		return 0, 0, err
	}
	if err := l.pool.Full(ctx); err != nil {
		return 0, 0, err
	}
	const metric = "peregrine_plasma_start_seconds_sum"
	before, err := l.metrics(metric)
	if err != nil {
		return 0, 0, err
	}
	if err := l.apply(ctx, id, policy(2), "/app/plasma-app", more); err != nil {
		return 0, 0, err
	}
	at := first
	for at == first {
		if at, err = next(); err != nil {
			return 0, 0, err
		}
		if at == first { // who asks all the time has a processor that the new one needs
			time.Sleep(time.Millisecond)
		}
	}
	served := time.Now()
	after, err := l.metrics(metric)
	if err != nil {
		return 0, 0, err
	}
	s, err := l.service(ctx, id)
	if err != nil {
		return 0, 0, err
	}
	for _, v := range s.Servers {
		if v.ID == at {
			serving = milliseconds(served.Sub(v.Created))
		}
	}
	if serving == 0 {
		return 0, 0, fmt.Errorf("%s answers, and is no server: %+v", at, s.Servers)
	}
	return serving, 1e3 * (after - before), l.ends(ctx, id)
}
