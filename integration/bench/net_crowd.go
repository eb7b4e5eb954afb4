package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/internal/netlab"
)

// startCrowd makes a node with as many containers as a bridge has ports, nearly.
func (b *netBench) startCrowd(ctx context.Context) error {
	b.notes.crowd = 1000
	if b.Quick {
		b.notes.crowd = 200
	}
	node, err := b.node()
	if err != nil {
		return err
	}
	other, err := b.node()
	if err != nil {
		return err
	}
	if err := wire(node, other); err != nil {
		return err
	}
	if b.crowded, err = b.agent(ctx, node, "crowded", ""); err != nil {
		return err
	}
	for i := range b.notes.crowd {
		b.Progress("attaching many containers", int64(i), int64(b.notes.crowd))
		container, err := b.node()
		if err != nil {
			return err
		}
		if _, _, err := b.crowded.Call("ADD", b.id(), b.crowdedConf(), container.File(), container.Path()); err != nil {
			return err
		}
	}
	return nil
}

// crowdedConf has the addresses of the crowded node apart from those of the other.
func (b *netBench) crowdedConf() []byte {
	return fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":"falcon","type":"falcon","ipam":{"type":"host-local","dataDir":%q}}`, b.dir+"/crowded")
}

// crowd attaches one more container to the node that has many, and to the one that has
// few.
func (b *netBench) crowd(ctx context.Context, s samples, round int) error {
	for _, name := range turn(round, []string{"few", "many"}) {
		agent, conf := b.near, b.conf[falcon]
		if name == "many" {
			agent, conf = b.crowded, b.crowdedConf()
		}
		plugin := agent.Plugin(conf, b.debian)
		for _, what := range []string{"exec", "agent"} {
			id := b.id()
			container, err := b.node()
			if err != nil {
				return err
			}
			if err := b.calm(); err != nil {
				return err
			}
			var took time.Duration
			if what == "exec" {
				_, took, err = plugin.Run(ctx, "ADD", id, container)
			} else {
				_, took, err = agent.Call("ADD", id, conf, container.File(), container.Path())
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			s.add("crowd-"+what, name, milliseconds(took))
			if _, _, err = plugin.Run(ctx, "DEL", id, container); err != nil {
				return err
			}
			if _, err := gone(ctx, agent.Node, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// burst attaches a hundred containers at once by each plugin.
func (b *netBench) burst(ctx context.Context, s samples, round int) error {
	b.notes.burst = 100
	names := []string{falcon, bridge}
	if b.Quick {
		names = names[:1] // the reference takes longer than all of a quick run
	}
	for _, name := range turn(round, names) {
		if err := b.oneBurst(ctx, name, s); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (b *netBench) oneBurst(ctx context.Context, name string, s samples) error {
	n := b.notes.burst
	ids, containers := make([]string, n), make([]*netlab.NS, n)
	for i := range n {
		var err error
		ids[i] = b.id()
		if containers[i], err = b.node(); err != nil {
			return err
		}
	}
	plugin := b.plugin(name)
	began := time.Now()
	took, err := together(ctx, plugin, "ADD", ids, containers)
	if len(took) == n {
		s.add("burst", name, milliseconds(time.Since(began)))
	}
	for _, t := range took {
		s.add("burst-ADD", name, milliseconds(t))
	}
	b.notes.failed[name] += n - len(took)
	if err != nil && (name == falcon || ctx.Err() != nil) {
		return err
	}
	if _, err := together(ctx, plugin, "DEL", ids, containers); err != nil && name == falcon {
		return err
	}
	if name != falcon {
		return nil
	}
	for _, id := range ids {
		if _, err := gone(ctx, plugin.Node, id); err != nil {
			return err
		}
	}
	return nil
}

// together runs a plugin for all containers at once. It returns the times of those that
// succeeded.
func together(ctx context.Context, plugin harness.CNI, command string, ids []string, containers []*netlab.NS) (took []time.Duration, err error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() {
			_, t, rerr := plugin.Run(ctx, command, ids[i], containers[i])
			mu.Lock()
			defer mu.Unlock()
			if rerr != nil {
				err = errors.Join(err, rerr)
				return
			}
			took = append(took, t)
		})
	}
	all.Wait()
	return took, err
}
