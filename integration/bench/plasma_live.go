package bench

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/images"
	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/config"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/service"
	"github.com/peregrine-dev/peregrine/plasma/status"
)

// plasmaMetrics is where plasmad's metrics are, in its node's network.
const plasmaMetrics = "127.0.0.1:7790"

// plasmaLive is a cluster of plasmads with their containerds, and services of plasma-app in it.
type plasmaLive struct {
	*harness.Plasma
	api.ClusterClient // of the first node
	image             images.Image
	bin               string
	conn              *grpc.ClientConn
	pool              *harness.Flashcube // nil: there is none
	undo              []func() error
}

// startLive starts a cluster of nodes, with FlashCube besides runc if that is asked for.
func (b *plasmaBench) startLive(ctx context.Context, nodes int, cube bool) (_ *plasmaLive, err error) {
	b.Progress("starting a cluster", 0, 0)
	l := &plasmaLive{}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close(ctx))
		}
	}()
	if l.bin, err = filepath.Abs(b.Bin); err != nil {
		return nil, err
	}
	if l.image, err = images.Busybox(ctx, b.Cache, b.Progress); err != nil {
		return nil, err
	}
	var shims []harness.Shim
	if cube {
		dir, err := harness.NewDir(b.Cache)
		if err != nil {
			return nil, err
		}
		l.undo = append(l.undo, dir.Remove)
		if l.pool, err = harness.StartFlashcube(ctx, b.Cache, b.Bin, dir.Path, nil); err != nil {
			return nil, err
		}
		l.undo = append(l.undo, l.pool.Remove)
		shims = append(shims, l.pool.Shim())
	}
	l.Plasma, err = harness.StartPlasma(ctx, b.Cache, b.Bin, nodes, func(c *config.Config) { c.Metrics.Address = plasmaMetrics }, shims...)
	if err != nil {
		return nil, err
	}
	if err := l.Import(ctx, l.image); err != nil {
		return nil, err
	}
	l.ClusterClient, l.conn, err = l.Nodes[0].Cluster()
	return l, err
}

// single gives the cluster of one node that all rows share that need no more.
func (b *plasmaBench) single(ctx context.Context) (_ *plasmaLive, err error) {
	if b.node == nil {
		b.node, err = b.startLive(ctx, 1, true)
	}
	return b.node, err
}

// close ends it, also after ctx is done.
func (l *plasmaLive) close(ctx context.Context) (err error) {
	if l.conn != nil {
		err = l.conn.Close()
	}
	if l.Plasma != nil {
		err = errors.Join(err, l.Remove(ctx))
	}
	for i := len(l.undo) - 1; i >= 0; i-- {
		err = errors.Join(err, l.undo[i]())
	}
	return err
}

// runs applies a service of plasma-app and waits until its servers share the shards.
func (l *plasmaLive) runs(ctx context.Context, name, policy string, servers int, more string) error {
	if err := l.apply(ctx, name, policy, "/app/plasma-app", fmt.Sprintf("[servers]\nmin = %d\nmax = %[1]d\n%s", servers, more)); err != nil {
		return err
	}
	return l.until(ctx, fmt.Sprintf("%d servers of %s are up", servers, name), func() error {
		s, err := l.service(ctx, name)
		if err != nil {
			return err
		}
		up := 0
		for _, v := range s.Servers {
			if v.State == model.Up && v.Shards > 0 {
				up++
			}
		}
		if up != servers {
			return fmt.Errorf("%d are up: %s", up, strings.Join(s.Trouble, "; "))
		}
		return nil
	})
}

// apply applies a service whose containers run a command.
func (l *plasmaLive) apply(ctx context.Context, name, policy, command, more string) error {
	words, err := json.Marshal(strings.Fields(command))
	if err != nil {
		return err
	}
	text := fmt.Sprintf("name = %q\nimage = %q\ncommand = %s\n%s\n[[mounts]]\nsource = %q\ntarget = \"/app\"\nreadonly = true\n", name, l.image.Name, words, more, l.bin)
	spec, err := service.Parse(name, []byte(text))
	if err != nil {
		return err
	}
	return l.Nodes[0].Apply(ctx, &service.Bundle{Spec: spec, Service: text, Policy: policy})
}

// ends removes a service and waits until its containers are gone.
func (l *plasmaLive) ends(ctx context.Context, name string) error {
	if _, err := l.Delete(ctx, &api.DeleteRequest{Service: name, State: true}); err != nil {
		return err
	}
	return l.until(ctx, "service "+name+" ends", func() error {
		s, err := l.Nodes[0].Status(ctx)
		if err != nil {
			return err
		}
		for _, v := range s.Services {
			if v.Name == name {
				return fmt.Errorf("it has %d servers", len(v.Servers))
			}
		}
		return nil
	})
}

func (l *plasmaLive) service(ctx context.Context, name string) (*status.Service, error) {
	r, err := l.Status(ctx, &api.StatusRequest{Service: name})
	if err != nil {
		return nil, err
	}
	var s status.Cluster
	if err := json.Unmarshal(r.GetStatus(), &s); err != nil {
		return nil, err
	}
	if len(s.Services) != 1 {
		return nil, fmt.Errorf("there are %d services %s", len(s.Services), name)
	}
	return &s.Services[0], nil
}

// until waits until something is so.
func (l *plasmaLive) until(ctx context.Context, what string, is func() error) error {
	const patience = 2 * time.Minute
	for end := time.Now().Add(patience); ; {
		err := is()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: %w; plasmad says:\n%s", what, err, l.Nodes[0].Tail())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// call calls an actor, as a client.
func (l *plasmaLive) call(ctx context.Context, name, kind, key, function, body string) ([]byte, error) {
	r, err := l.Call(ctx, &api.CallRequest{Service: name, To: &api.Actor{Type: kind, Key: key}, Function: function, Body: []byte(body)})
	if err == nil && r.GetError() != "" {
		err = errors.New(r.GetError())
	}
	if err != nil {
		return nil, fmt.Errorf("call %s of %s/%s: %w", function, kind, key, err)
	}
	return r.GetBody(), nil
}

// where finds keys of actors of a type, n on each server of a service, by server.
func (l *plasmaLive) where(ctx context.Context, name, kind, prefix string, servers, n int) (map[string][]string, error) {
	found := map[string][]string{}
	full := 0
	for i := 0; full < servers; i++ {
		if i > 1000*n {
			return nil, fmt.Errorf("%d actors are on %d servers of %s, want %d", i, len(found), name, servers)
		}
		key := fmt.Sprintf("%s-%d", prefix, i)
		answer, err := l.call(ctx, name, kind, key, "where", "")
		if err != nil {
			return nil, err
		}
		server := string(answer)
		if found[server] = append(found[server], key); len(found[server]) == n {
			full++
		}
	}
	return found, nil
}

// plasmaCall is when a call began and how long it took.
type plasmaCall struct {
	began time.Time
	took  time.Duration
}

// times has a probe call an actor, for so long and so often a second at most.
func (l *plasmaLive) times(ctx context.Context, name, probe, to, function string, most int, d time.Duration, rate int) (calls []plasmaCall, err error) {
	answer, err := l.call(ctx, name, "Probe", probe, "times", fmt.Sprintf("%s %s %d %d %d", to, function, most, d.Milliseconds(), rate))
	if err != nil {
		return nil, err
	}
	for ; len(answer) >= 12; answer = answer[12:] {
		calls = append(calls, plasmaCall{
			time.Unix(0, int64(binary.LittleEndian.Uint64(answer))), time.Duration(binary.LittleEndian.Uint32(answer[8:])),
		})
	}
	return calls, nil
}
