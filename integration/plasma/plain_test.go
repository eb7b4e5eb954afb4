package plasma

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/config"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/service"
)

// TestPlain: containers of an application that knows nothing of actors are scaled by what they
// use, replaced one by one, and made fewer when they idle.
func TestPlain(t *testing.T) {
	p, image := cluster(t, 1, func(c *config.Config) { c.Period = config.Duration(500 * time.Millisecond) })
	one := p.Nodes[0]
	apply := func(command string) {
		t.Helper()
		text := fmt.Sprintf("name = \"web\"\nimage = %q\ncommand = [\"sh\", \"-c\", %q]\n[limit]\ncpu = 0.1\n", image.Name, command)
		spec, err := service.Parse("web", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		policy := `limits { servers 1..2; period 1s; cooldown up 1s down 2s; }
server.cpu.perc < 40 or server.cpu.perc > 70 => balance({web}, cpu);`
		if err := one.Apply(t.Context(), &service.Bundle{Spec: spec, Service: text, Policy: policy}); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(what string, servers int, version uint64) {
		t.Helper()
		eventually(t, what, 90*time.Second, func(ctx context.Context) error {
			s, err := serviceOf(ctx, one, "web")
			if err != nil {
				return err
			}
			count := 0
			for _, v := range s.Servers {
				if v.State == model.Up && v.Version == version {
					count++
				}
			}
			if count != servers || len(s.Servers) != servers {
				return fmt.Errorf("%d of %d servers are as they should be: %+v\n%+v", count, len(s.Servers), s.Servers, s.Decisions)
			}
			return nil
		})
	}
	began := time.Now()
	apply("trap 'exit 0' TERM; while :; do :; done")
	expect("it grows", 2, 1)
	t.Logf("2 servers after %s", time.Since(began).Round(time.Millisecond))
	apply("trap 'exit 0' TERM; sleep 100000 & wait")
	expect("it is replaced, and shrinks", 1, 2)
	t.Logf("replaced and 1 server after %s", time.Since(began).Round(time.Millisecond))
}
