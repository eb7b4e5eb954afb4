package plasma

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/images"
	"github.com/peregrine-dev/peregrine/plasma/api"
)

// blockedDrain drains a server whose actors are pinned: it stays, and says why, until they no
// longer are; then it goes, and they have kept what they had.
func blockedDrain(t *testing.T, p *harness.Plasma, image images.Image, name string) {
	n := p.Nodes[0]
	free := "limits { servers 2..3; period 1s; }"
	if err := n.Apply(t.Context(), app(t, image, name, free+" true => pin(Ledger(l));", "[limit]\ncpu = 0.5\n")); err != nil {
		t.Fatal(err)
	}
	up(t, n, name, 2)
	const pinned = 8
	put := func(number int) {
		t.Helper()
		for i := range pinned {
			eventually(t, "a ledger takes a number", 30*time.Second, func(ctx context.Context) error {
				got, err := n.Call(ctx, name, "Ledger", fmt.Sprint("l", i), "put", fmt.Sprint("me ", number))
				if err == nil && got != fmt.Sprint(number) {
					t.Fatalf("l%d answers %q to %d", i, got, number)
				}
				return err
			})
		}
	}
	put(1)
	s, err := serviceOf(t.Context(), n, name)
	if err != nil {
		t.Fatal(err)
	}
	victim := s.Servers[0].ID
	if err := n.Do(t.Context(), func(ctx context.Context, c api.ClusterClient) error {
		_, err := c.Drain(ctx, &api.DrainRequest{Service: name, Server: victim})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	state := func(ctx context.Context) (why string, there bool, err error) {
		s, err := serviceOf(ctx, n, name)
		if err != nil {
			return "", false, err
		}
		for _, v := range s.Servers {
			if v.ID == victim {
				return v.Why, true, nil
			}
		}
		return "", false, nil
	}
	eventually(t, "it says why it doesn't go", 30*time.Second, func(ctx context.Context) error {
		why, there, err := state(ctx)
		if err == nil && (!there || !strings.Contains(why, "pinned")) {
			err = fmt.Errorf("%q, %v", why, there)
		}
		return err
	})
	put(2)
	if err := n.Apply(t.Context(), app(t, image, name, free, "[limit]\ncpu = 0.5\n")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it goes", 60*time.Second, func(ctx context.Context) error {
		why, there, err := state(ctx)
		if err == nil && there {
			err = fmt.Errorf("it is there: %s", why)
		}
		return err
	})
	put(3)
	eventually(t, "its container is gone", 30*time.Second, func(ctx context.Context) error {
		all, err := n.Containerd.Ctr(ctx, "container", "ls", "-q")
		if err == nil && slices.Contains(strings.Fields(all), victim) {
			err = errNotYet
		}
		return err
	})
}

// TestNode has things go wrong on one node that need no other.
func TestNode(t *testing.T) {
	p, image := cluster(t, 1, nil)
	fullDisk(t, p, image, "full")
	blockedDrain(t, p, image, "pinned")
}
