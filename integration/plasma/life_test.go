package plasma

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/status"
)

// put has a ledger write a number down, again until that is answered, as clients do.
func put(t *testing.T, n *harness.PlasmaNode, key string, number int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s takes %d", key, number), 60*time.Second, func(ctx context.Context) error {
		got, err := n.Call(ctx, "app", "Ledger", key, "put", fmt.Sprint("me ", number))
		if err == nil && got != fmt.Sprint(number) {
			t.Fatalf("%s answers %q to %d", key, got, number)
		}
		return err
	})
}

func read(t *testing.T, n *harness.PlasmaNode, key string, want int) {
	t.Helper()
	eventually(t, key+" is read", 60*time.Second, func(ctx context.Context) error {
		got, err := n.Call(ctx, "app", "Ledger", key, "read", "")
		if err == nil && (strings.Contains(got, "wrong") || !strings.Contains(got, fmt.Sprintf(`"me":%d`, want))) {
			t.Fatalf("%s has %s, want %d", key, got, want)
		}
		return err
	})
}

// TestLives drains a server of a service whose actors have state, and kills what can be killed;
// all actors keep what they have been told.
func TestLives(t *testing.T) {
	p, image := cluster(t, 3, nil)
	one := p.Nodes[0]
	if err := one.Apply(t.Context(), app(t, image, "app", "limits { servers 2..4; }", "")); err != nil {
		t.Fatal(err)
	}
	up(t, one, "app", 2)
	const actors = 20
	number := 0
	everyone := func() {
		t.Helper()
		number++
		for i := range actors {
			put(t, p.Nodes[(i+number)%3], fmt.Sprint("l", i), number)
		}
	}
	everyone()
	before := servers(t, one)

	t.Log("drain a server: its actors move, it ends, and another is started")
	if err := one.Do(t.Context(), func(ctx context.Context, c api.ClusterClient) error {
		_, err := c.Drain(ctx, &api.DrainRequest{Service: "app", Server: before[0].ID})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	everyone()
	eventually(t, before[0].ID+" ends", 90*time.Second, func(ctx context.Context) error {
		s, err := serviceOf(ctx, one, "app")
		if err != nil {
			return err
		}
		for _, v := range s.Servers {
			if v.ID == before[0].ID {
				return fmt.Errorf("it is still there: %+v; %+v", v, s.Decisions)
			}
		}
		return nil
	})
	up(t, one, "app", 2)
	everyone()

	t.Log("kill a server's process: it starts again with its state")
	victim := servers(t, one)[0]
	node := nodeOf(p, victim)
	killTask(t, node, victim.ID)
	everyone()

	t.Log("kill a node's plasmad: nothing stops, and it finds all again")
	if err := node.Kill(); err != nil {
		t.Fatal(err)
	}
	number++
	for i := range actors {
		put(t, other(p, node), fmt.Sprint("l", i), number)
	}
	if err := node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	everyone()

	t.Log("kill the global manager: another one plans soon")
	leader := leaderOf(t, p)
	killed := time.Now()
	if err := leader.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another is elected and plans", 30*time.Second, func(ctx context.Context) error {
		s, err := other(p, leader).Status(ctx)
		if err != nil {
			return err
		}
		if s.Leader == leader.Config.Node || len(s.Services) == 0 || !s.Services[0].Planned.After(killed) {
			return errors.New("not yet")
		}
		return nil
	})
	t.Logf("planning again %s after the manager was killed", time.Since(killed).Round(10*time.Millisecond))
	if err := leader.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	everyone()

	t.Log("kill a containerd: containers stay, and none starts twice")
	if err := node.Containerd.Kill(); err != nil {
		t.Fatal(err)
	}
	everyone()
	if err := node.Containerd.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	everyone()
	for i := range actors {
		read(t, one, fmt.Sprint("l", i), number)
	}
	if got := servers(t, one); len(got) != 2 {
		t.Errorf("there are %d servers: %+v", len(got), got)
	}
}

func servers(t *testing.T, n *harness.PlasmaNode) (all []status.Server) {
	t.Helper()
	eventually(t, "servers are known", 30*time.Second, func(ctx context.Context) error {
		s, err := serviceOf(ctx, n, "app")
		if err == nil {
			all = s.Servers
		}
		return err
	})
	return all
}

func nodeOf(p *harness.Plasma, s status.Server) *harness.PlasmaNode {
	for _, n := range p.Nodes {
		if n.Config.Node == s.Node {
			return n
		}
	}
	return nil
}

// other is a node that is not the one given.
func other(p *harness.Plasma, n *harness.PlasmaNode) *harness.PlasmaNode {
	for _, o := range p.Nodes {
		if o != n {
			return o
		}
	}
	return nil
}

func leaderOf(t *testing.T, p *harness.Plasma) (leader *harness.PlasmaNode) {
	t.Helper()
	eventually(t, "there is a manager", 30*time.Second, func(ctx context.Context) error {
		s, err := p.Nodes[0].Status(ctx)
		if err != nil {
			return err
		}
		leader = nodeOf(p, status.Server{Node: s.Leader})
		if leader == nil {
			return errors.New("none is elected")
		}
		return nil
	})
	return leader
}

// killTask kills the process of a server.
func killTask(t *testing.T, n *harness.PlasmaNode, id string) {
	t.Helper()
	client, err := n.Containerd.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := client.LoadContainer(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.Task(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Kill(t.Context(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}
