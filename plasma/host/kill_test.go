package host_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/host/failpoint"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// TestKill kills hosts with SIGKILL at each step of what they do, and at random, while clients
// and actors send numbers to actors that move: none is lost, none comes twice, none overtakes
// another, and no actor is in two places.
func TestKill(t *testing.T) {
	t.Parallel()
	servers := []string{"a1", "a2", "b1"}
	c := prepare(t, func(*host.Options) {}, servers...)
	k := &killer{cluster: c, t: t, servers: servers, children: map[string]*child{}}
	for _, s := range servers {
		k.children[s] = c.spawn(s, "")
	}
	defer func() {
		for _, p := range k.children {
			p.kill()
		}
	}()
	d := c.dirs("a-client")
	g, err := c.authority.Serve("", "a", d.Agent, c.cert, c.key)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if k.client, err = host.Dial(t.Context(), d.Agent, d.Peers); err != nil {
		t.Fatal(err)
	}
	defer k.client.Close()
	for i := range 4 {
		k.targets = append(k.targets, c.on(servers[i%3], "turn", i))
	}
	for i := range 2 {
		k.relays = append(k.relays, c.on(servers[i], "turn", 10+i))
	}
	k.sent = make([][2]int, len(k.targets))

	run, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	for i := range k.targets {
		load.Go(func() { k.add(run, i) })
	}
	for i := range k.relays {
		load.Go(func() { k.relay(run, i) })
	}
	load.Go(func() { k.move(run) })
	for _, name := range failpoint.Names {
		k.strike(name)
	}
	stop()
	load.Wait()
	k.check()
}

type killer struct {
	*cluster
	t        *testing.T
	servers  []string
	client   *host.Client
	targets  []placement.Actor
	relays   []placement.Actor
	sent     [][2]int // to each target: by the client, by the relay
	children map[string]*child
	moves    int
	killed   int
}

func (k *killer) call(to placement.Actor, function string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return k.client.Call(ctx, to, function, body)
}

// add sends numbers to a target, each when the one before is answered.
func (k *killer) add(ctx context.Context, i int) {
	last := 0
	for ctx.Err() == nil {
		answer, err := k.call(k.targets[i], "add", encode(entry{"client", k.sent[i][0] + 1}))
		if err != nil {
			k.t.Errorf("add: %v", err)
			return
		}
		k.sent[i][0]++
		n, err := strconv.Atoi(string(answer))
		if err != nil || n <= last {
			k.t.Errorf("%s says %s after %d", k.targets[i], answer, last)
		}
		last = n
	}
}

func (k *killer) relay(ctx context.Context, i int) {
	for ctx.Err() == nil {
		if _, err := k.call(k.relays[i], "relay", encode(k.targets[i])); err != nil {
			k.t.Errorf("relay: %v", err)
			return
		}
		k.sent[i][1]++
	}
}

// move moves actors about. What fails is the next round's.
func (k *killer) move(run context.Context) {
	all := append(append([]placement.Actor{}, k.targets...), k.relays...)
	for run.Err() == nil {
		a, to := all[rand.IntN(len(all))], k.servers[rand.IntN(len(k.servers))]
		owner := k.authority.Owner(a)
		if owner.Server == to {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		_, err := k.authority.MoveAt(ctx, k.dirs(owner.Server).Control, a, to, newMove(), owner.Epoch+1)
		cancel()
		if err == nil {
			k.moves++
			continue
		}
		t := time.NewTimer(5 * time.Millisecond) // the host is dead
		select {
		case <-t.C:
		case <-run.Done():
		}
		t.Stop()
	}
}

// strike kills a host, and its successor at a step, and starts it a third time.
func (k *killer) strike(name string) {
	s := k.servers[rand.IntN(len(k.servers))]
	k.children[s].kill()
	step := fmt.Sprintf("%s:%d", name, 1+rand.IntN(3))
	if name == failpoint.Recover || name == failpoint.RecoverPending || name == failpoint.RecoverDone {
		step = name
	}
	p := k.spawn(s, step)
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-p.dead:
		k.killed++
	case <-t.C:
		p.kill()
	}
	k.children[s] = k.spawn(s, "")
}

func (k *killer) check() {
	k.t.Logf("%d moves, %d of %d steps reached, sent %v", k.moves, k.killed, len(failpoint.Names), k.sent)
	if k.t.Failed() {
		return
	}
	for i, to := range k.targets {
		want := k.sent[i][0] + k.sent[i][1]
		var l ledger
		eventually(k.t, fmt.Sprintf("%d messages at %s", want, to), func() bool {
			b, err := k.call(to, "get", nil)
			if err != nil {
				k.t.Fatal(err)
			}
			l = ledger{}
			return json.Unmarshal(b, &l) == nil && l.Count >= want
		})
		if l.Count != want {
			k.t.Errorf("%s has %d messages, want %d", to, l.Count, want)
		}
		checkOrder(k.t, l)
	}
	if k.killed < len(failpoint.Names)/2 {
		k.t.Errorf("only %d of %d steps were reached", k.killed, len(failpoint.Names))
	}
}
