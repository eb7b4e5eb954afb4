package part

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	eventstypes "github.com/containerd/containerd/api/events"
	core "github.com/containerd/containerd/v2/core/events"

	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Main(m)) }

func TestSlug(t *testing.T) {
	for reason, want := range map[string]string{
		"failed": "failed", "user namespace": "user-namespace", "AppArmor is off": "apparmor-is-off",
		"mount option dest-nofollow": "mount-option-dest-nofollow", "../../etc/passwd": "etc-passwd", "a/b": "a-b",
		"recursive attribute of a ../x": "recursive-attribute-of-a----x", "": "", "--": "", "é": "", "x\x00y\n": "x-y",
	} {
		if got := slug(reason); got != want {
			t.Errorf("%q: %q, want %q", reason, got, want)
		}
	}
}

func FuzzSlug(f *testing.F) {
	f.Add("mount option x")
	f.Fuzz(func(t *testing.T, reason string) {
		if got := slug(reason); strings.ContainsAny(got, "/.\x00") || strings.HasPrefix(got, "-") {
			t.Errorf("%q: %q", reason, got)
		}
	})
}

func TestRehearse(t *testing.T) {
	if err := rehearse(); err != nil {
		t.Error(err)
	}
}

// publisher notes what it is to publish, and fails every other time.
type publisher struct {
	mu   sync.Mutex
	seen []string
}

func (p *publisher) Publish(_ context.Context, topic string, event core.Event) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, topic+" "+event.(*eventstypes.TaskOOM).ContainerID)
	if len(p.seen)%2 == 0 {
		return errors.New("not now")
	}
	return nil
}

func (p *publisher) Close() error { return nil }

// TestEvents: they are published in order, and those that were sent before the end too.
func TestEvents(t *testing.T) {
	e, p, stop := newEvents(), &publisher{}, make(chan struct{})
	ids := []string{"a", "b", "c", "d", "e"}
	for _, id := range ids[:3] {
		e.send(&eventstypes.TaskOOM{ContainerID: id})
	}
	go e.forward(context.Background(), p, stop)
	for _, id := range ids[3:] {
		e.send(&eventstypes.TaskOOM{ContainerID: id})
	}
	close(stop)
	<-e.done
	if got := strings.Join(p.seen, ", "); got != "/tasks/oom a, /tasks/oom b, /tasks/oom c, /tasks/oom d, /tasks/oom e" {
		t.Error(got)
	}
}
