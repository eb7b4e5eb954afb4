package demo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/images"
	"github.com/peregrine-dev/peregrine/plasma/config"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/service"
	"github.com/peregrine-dev/peregrine/plasma/status"
)

const (
	ledgers = 24
	nodes   = 3
	// ledgerPolicy has servers follow the load within seconds.
	ledgerPolicy = `limits { servers 1..3; moves 50% per 2s; cooldown up 2s down 60s; period 1s; }
rule level: server.cpu.perc < 30 or server.cpu.perc > 70 => balance({Ledger}, cpu);
`
	ledgerService = `name = "ledger"
image = %q
command = ["/app/plasma-app"]
policy = "ledger.epl"

[limit]
cpu = 0.1
memory = "128MiB"

[[mounts]]
source = %q
target = "/app"
readonly = true
`
)

// elastic is a cluster with a service that is under load.
type elastic struct {
	*harness.Plasma
	front *harness.PlasmaNode // whom clients call; it is not the global manager
	chief *harness.PlasmaNode // the global manager
	books *books
}

// elasticity shows PLASMA on three nodes: what came of load, moves and kills.
func elasticity(ctx context.Context, o Options) (seen []Finding, err error) {
	o.Progress("starting three nodes with plasmad", 0, 0)
	image, err := images.Busybox(ctx, o.Cache, o.Progress)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	p, err := harness.StartPlasma(ctx, o.Cache, o.Bin, nodes, func(c *config.Config) { c.Period = config.Duration(time.Second) })
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Remove(ctx)) }()
	if err := p.Import(ctx, image); err != nil {
		return nil, err
	}
	e := &elastic{Plasma: p}
	if err := e.choose(ctx); err != nil {
		return nil, err
	}
	seen = append(seen, Finding{"three nodes, a containerd and a plasmad on each", "one is the global manager, " + seconds(time.Since(began)) + " after the first process began"})
	if err := e.apply(ctx, o, image); err != nil {
		return nil, err
	}
	o.Progress("putting load on a service", 0, 0)
	if e.books, err = open(ctx, e.front); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.books.close()) }()
	for _, scene := range []func(context.Context) ([]Finding, error){e.grow, e.behead, e.kill, e.audit} {
		more, err := scene(ctx)
		if err != nil {
			return nil, err
		}
		seen = append(seen, more...)
	}
	return seen, nil
}

// choose waits for a global manager, and finds a node that isn't it.
func (e *elastic) choose(ctx context.Context) error {
	return e.await(ctx, "a global manager", func(s *status.Cluster) bool {
		for _, n := range e.Nodes {
			if n.Config.Node == s.Leader {
				e.chief = n
			} else {
				e.front = n
			}
		}
		return e.chief != nil
	})
}

// await waits until the cluster is as it should be, by what the front node says.
func (e *elastic) await(ctx context.Context, what string, is func(*status.Cluster) bool) error {
	asked := e.front
	if asked == nil {
		asked = e.Nodes[0]
	}
	var last error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		s, err := asked.Status(ctx)
		if err == nil && is(s) {
			return nil
		}
		last = err
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return errors.Join(fmt.Errorf("there was no %s within 30 s", what), last)
}

func (e *elastic) apply(ctx context.Context, o Options, image images.Image) error {
	bin, err := filepath.Abs(o.Bin)
	if err != nil {
		return err
	}
	text := fmt.Sprintf(ledgerService, image.Name, bin)
	spec, err := service.Parse("ledger.toml", []byte(text))
	if err != nil {
		return err
	}
	if err := e.front.Apply(ctx, &service.Bundle{Spec: spec, Service: text, Policy: ledgerPolicy}); err != nil {
		return err
	}
	return e.await(ctx, "server that is up", func(s *status.Cluster) bool { return len(serving(s)) > 0 })
}

// serving are the servers that are up and own actors.
func serving(s *status.Cluster) (all []status.Server) {
	for _, one := range s.Services {
		for _, v := range one.Servers {
			if v.State == model.Up && v.Shards > 0 {
				all = append(all, v)
			}
		}
	}
	return all
}

// grow waits until the load has made the service three servers with actors on each.
func (e *elastic) grow(ctx context.Context) ([]Finding, error) {
	began := time.Now()
	moved := map[string]bool{}
	err := e.await(ctx, "third server with actors", func(s *status.Cluster) bool {
		for _, m := range s.Services[0].Recent {
			if m.Refused == "" {
				moved[m.ID] = true
			}
		}
		all := serving(s)
		return len(all) == nodes && !slices.ContainsFunc(all, func(v status.Server) bool { return v.Actors == 0 })
	})
	if err != nil {
		return nil, err
	}
	return []Finding{
		{fmt.Sprintf("%d clients write into %d ledgers on a server of 0.1 cores", ledgers, ledgers), fmt.Sprintf("three servers share the ledgers %s later", seconds(time.Since(began)))},
		{"ledgers that moved meanwhile, each while it was written into", fmt.Sprintf("%d; the slowest write took %s, for a server that is full too", len(moved), seconds(e.books.slowest()))},
	}, nil
}

// behead kills the global manager.
func (e *elastic) behead(ctx context.Context) ([]Finding, error) {
	e.books.forget()
	killed := time.Now()
	if err := e.chief.Kill(); err != nil {
		return nil, err
	}
	err := e.await(ctx, "other global manager that plans", func(s *status.Cluster) bool {
		return s.Leader != e.chief.Config.Node && len(s.Services) > 0 && s.Services[0].Planned.After(killed)
	})
	if err != nil {
		return nil, err
	}
	took, slowest := time.Since(killed), e.books.slowest()
	if err := e.chief.Start(ctx); err != nil {
		return nil, err
	}
	return []Finding{{
		"the global manager's plasmad killed",
		fmt.Sprintf("another plans after %s; no server stopped, the slowest write meanwhile took %s", seconds(took), seconds(slowest)),
	}}, nil
}

// kill kills a server's process.
func (e *elastic) kill(ctx context.Context) ([]Finding, error) {
	s, err := e.front.Status(ctx)
	if err != nil {
		return nil, err
	}
	all := serving(s)
	if len(all) == 0 {
		return nil, errors.New("no server is up")
	}
	victim := all[0]
	i := slices.IndexFunc(e.Nodes, func(n *harness.PlasmaNode) bool { return n.Config.Node == victim.Node })
	e.books.forget()
	if err := killTask(ctx, e.Nodes[i], victim.ID); err != nil {
		return nil, err
	}
	if err := e.books.round(ctx); err != nil {
		return nil, err
	}
	return []Finding{{
		fmt.Sprintf("the process of a server with %d ledgers killed", victim.Actors),
		fmt.Sprintf("it was started again with what they had stored; the slowest write took %s", seconds(e.books.slowest())),
	}}, nil
}

func killTask(ctx context.Context, n *harness.PlasmaNode, id string) error {
	client, err := n.Containerd.Client()
	if err != nil {
		return err
	}
	defer client.Close()
	c, err := client.LoadContainer(ctx, id)
	if err != nil {
		return err
	}
	task, err := c.Task(ctx, nil)
	if err != nil {
		return err
	}
	return task.Kill(ctx, unix.SIGKILL)
}

// audit compares what the ledgers have with what was written.
func (e *elastic) audit(ctx context.Context) ([]Finding, error) {
	written, wrong, err := e.books.audit(ctx)
	if err != nil {
		return nil, err
	}
	return []Finding{{"all ledgers read at the end", fmt.Sprintf("%d entries; lost, twice or in another order: %d", written, wrong)}}, nil
}

func seconds(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
