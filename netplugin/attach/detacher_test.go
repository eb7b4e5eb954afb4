package attach

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

func detacher(t testing.TB) *Detacher {
	t.Helper()
	d, err := NewDetacher()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestUnplugCutsOff(t *testing.T) {
	host, container := world(t)
	s := spec(1)
	in(t, host, func() error { return Attach(container.File(), s) })
	container.Echo("udp", "10.7.1.3:7")
	if err := host.Try("udp", "10.7.1.3:7", time.Minute); err != nil {
		t.Fatal(err)
	}
	// Without its goroutine a Detacher deletes nothing, so the link can be looked at.
	var d *Detacher
	host.Do(func() {
		unplug, err := openSockets()
		if err != nil {
			t.Fatal(err)
		}
		defer unplug.close()
		d = &Detacher{unplug: unplug, wake: make(chan struct{}, 1), next: newBatch()}
		for range 2 { // twice is once
			if err := d.Unplug(s.Link); err != nil {
				t.Fatal(err)
			}
		}
	})
	if err := host.Try("udp", "10.7.1.3:7", 100*time.Millisecond); err == nil {
		t.Error("an unplugged container answers")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Flush(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	host.Do(func() {
		if err := Attach(container.File(), s); !errdefs.IsAlreadyExists(err) {
			t.Error(err)
		}
		// The next process' Detacher finishes it.
		next := detacher(t)
		if err := next.Close(); err != nil {
			t.Error(err)
		}
		if err := next.Close(); err != nil {
			t.Error(err)
		}
		if err := next.Unplug(s.Link); !errdefs.IsUnavailable(err) {
			t.Error(err)
		}
		if err := Attach(container.File(), s); err != nil {
			t.Error(err)
		}
		if err := Check(container.File(), s); err != nil {
			t.Error(err)
		}
	})
}

func TestUnplugAndAttachAgain(t *testing.T) {
	host, container := world(t)
	s := spec(1)
	host.Do(func() {
		d := detacher(t)
		if err := d.Unplug(s.Link); err != nil {
			t.Errorf("gone already: %v", err)
		}
		for range 5 {
			if err := d.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := Attach(container.File(), s); err != nil {
				t.Fatal(err)
			}
			if err := d.Unplug(s.Link); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestCloseDeletesWhatIsUnplugged(t *testing.T) {
	host, container := world(t)
	host.Do(func() {
		d, err := NewDetacher()
		if err != nil {
			t.Fatal(err)
		}
		if err := Attach(container.File(), spec(1)); err != nil {
			t.Fatal(err)
		}
		if err := d.Unplug(spec(1).Link); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	})
	if got := links(t, host); got != "lo fb7" {
		t.Errorf("left: %s", got)
	}
}

// A deletion that fails is told by Close.
func TestDeletionFails(t *testing.T) {
	host := netnstest.New(t)
	host.Do(func() {
		s, err := openSockets()
		if err != nil {
			t.Fatal(err)
		}
		d := &Detacher{unplug: s, del: s, wake: make(chan struct{}, 1), ended: make(chan struct{}), next: newBatch()}
		s.close() // and so all messages fail
		link := LinkName("c", "eth0")
		d.next.links[link] = true
		if err := d.Unplug(link); err == nil {
			t.Error("a failure is hidden")
		}
		d.closed = true
		close(d.wake)
		d.run()
		if err := d.Close(); err == nil {
			t.Error("a failure is hidden")
		}
	})
}
