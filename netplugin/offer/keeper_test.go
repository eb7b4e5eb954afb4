package offer

import (
	"bytes"
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/log"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func TestLife(t *testing.T) {
	n := newNetwork(t)
	k := n.keeper(3)
	// Whatever is done at once is done for an event.
	k.pace.resync = time.Hour
	stop := n.run(k)
	n.settled(3)
	seen := map[uint64]bool{inode(t, "/proc/self/ns/net"): true}
	for _, name := range n.all()[ready] {
		path := n.path(ready, name, namespaceFile)
		if id := inode(t, path); seen[id] || n.maker.idOf(id) != name {
			t.Errorf("the namespace of %s is another one's", name)
		} else {
			seen[id] = true
		}
		checkLo(t, path)
	}

	name, ok := n.take("1 2")
	if !ok {
		t.Fatal("nothing to take")
	}
	n.settled(3)
	if s := k.Status(); s != (Status{Ready: 3, Taken: 1}) {
		t.Errorf("status %+v", s)
	}
	n.use(name, "/nowhere")
	n.finish(name)
	n.until("it is taken apart", func() bool { return n.count(done) == 0 })
	if !n.maker.wasDetached(name) {
		t.Error("it was not detached")
	}
	n.settled(3)
	stop()
	n.clean()
	if n.count(ready) != 3 {
		t.Error("ready offers don't stay")
	}
}

func checkLo(t *testing.T, path string) {
	t.Helper()
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	link, err := h.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if link.Attrs().RawFlags&unix.IFF_UP == 0 {
		t.Error("lo is down")
	}
}

func TestTakers(t *testing.T) {
	n := newNetwork(t)
	stop := n.run(n.keeper(4))
	const takers = 50
	var mu sync.Mutex
	got := map[string]bool{}
	var group sync.WaitGroup
	for range takers {
		group.Go(func() {
			for t.Context().Err() == nil {
				name, ok := n.take("1 2")
				if !ok {
					runtime.Gosched()
					continue
				}
				n.use(name, "/")
				mu.Lock()
				defer mu.Unlock()
				if got[name] {
					t.Errorf("%s was taken twice", name)
				}
				got[name] = true
				return
			}
		})
	}
	group.Wait()
	n.settled(4)
	if len(got) != takers || n.count(taken) != takers {
		t.Errorf("%d takers, %d offers, %d taken", takers, len(got), n.count(taken))
	}
	seen := map[uint64]bool{}
	for name := range got {
		seen[inode(t, n.path(taken, name, namespaceFile))] = true
	}
	if len(seen) != takers {
		t.Errorf("%d takers have %d namespaces", takers, len(seen))
	}
	for name := range got {
		n.finish(name)
	}
	n.settled(4)
	stop()
	n.clean()
	if mounts := mounts(t, n.dir); len(mounts) != 4 {
		t.Errorf("left are %v", mounts)
	}
}

func TestTakersAgainstWithdrawal(t *testing.T) {
	n := newNetwork(t)
	const offers = 16
	stop := n.run(n.keeper(offers))
	n.settled(offers)
	stop()

	var got atomic.Int32
	var group sync.WaitGroup
	begin := make(chan struct{})
	for range offers {
		group.Go(func() {
			<-begin
			if name, ok := n.take("1 2"); ok {
				n.use(name, "/")
				got.Add(1)
			}
		})
	}
	k := n.keeper(0)
	close(begin)
	stop = n.run(k)
	group.Wait()
	n.settled(0)
	stop()
	if s := k.Status(); s.Taken != int(got.Load()) || s.LastError != nil {
		t.Errorf("%d offers were taken; status %+v", got.Load(), s)
	}
	n.clean()
}

func TestWant(t *testing.T) {
	n := newNetwork(t)
	var before []string
	for _, want := range []int{4, 2, 3, 0} {
		stop := n.run(n.keeper(want))
		n.settled(want)
		stop()
		n.clean()
		now := n.all()[ready]
		var kept int
		for _, name := range now {
			if slices.Contains(before, name) {
				kept++
			}
		}
		if kept != min(len(before), want) {
			t.Errorf("of %v, %v were kept", before, now)
		}
		before = now
	}
}

// TestIdle has a Keeper wait when there is nothing to do.
func TestIdle(t *testing.T) {
	n := newNetwork(t)
	k := n.keeper(2)
	k.pace = defaultPace()
	k.begin()
	defer k.unwatch()
	for i := 0; ; {
		if i++; i > 100 {
			t.Fatal("there is no end of what is to do")
		}
		now := time.Now()
		next := k.act(t.Context(), now)
		if !next.After(now) {
			continue
		}
		if len(n.all()[ready]) != 2 || next.Before(now.Add(k.pace.resync/2)) {
			t.Fatalf("waits %s, and there is %v", next.Sub(now), n.all())
		}
		select {
		case <-k.watcher.Events: // of what was done
		case <-time.After(100 * time.Millisecond):
			return
		}
	}
}

// TestUrgency takes the next one only when it is quiet.
func TestUrgency(t *testing.T) {
	n := newNetwork(t)
	k := n.keeper(2)
	k.pace.quiet, k.pace.longest, k.pace.resync = time.Hour, time.Minute, time.Hour
	k.begin()
	t.Cleanup(k.unwatch) // after Run
	now := time.Now()
	act := func() time.Time { // until there is nothing to do now
		t.Helper()
		for range 100 {
			if next := k.act(t.Context(), now); next.After(now) {
				return next
			}
		}
		t.Fatal("there is no end of what is to do")
		return now
	}
	act()
	n.settled(2)
	n.take("1 2")
	now = now.Add(time.Second)
	if next := act(); !next.Equal(now.Add(k.pace.longest)) {
		t.Errorf("waits %s", next.Sub(now))
	}
	n.settled(1)
	now = now.Add(k.pace.longest)
	act()
	n.settled(2)

	// Run acts so.
	k.unwatch()
	k.pace.longest = 100 * time.Millisecond
	n.run(k)
	n.take("1 2")
	n.settled(2)
}

func TestAttachFails(t *testing.T) {
	n := newNetwork(t)
	var logged bytes.Buffer // read when Run has returned
	before := log.L.Logger.Out
	log.L.Logger.SetOutput(&logged)
	defer log.L.Logger.SetOutput(before)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var tries atomic.Int32
	var well atomic.Bool
	full := errors.New("no address is left")
	n.maker.attach = func(_ context.Context, id string) error {
		if well.Load() {
			return nil
		}
		if tries.Add(1)%2 == 0 {
			return errors.New("another reason, " + id)
		}
		return full
	}
	k := n.keeper(2)
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	n.until("it was tried six times", func() bool { return tries.Load() >= 6 })
	if err := k.Status().LastError; err == nil || !strings.Contains(err.Error(), "reason") && !errors.Is(err, full) {
		t.Errorf("last error: %v", err)
	}
	well.Store(true)
	n.settled(2)
	n.until("the error is forgotten", func() bool { return k.Status().LastError == nil })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	n.clean()
	if got := strings.Count(logged.String(), "\n"); got != 2 {
		t.Errorf("logged %d times for two reasons:\n%s", got, &logged)
	}
}

func TestDetachFails(t *testing.T) {
	n := newNetwork(t)
	stuck := newID()
	n.put(done, stuck, true, true, true)
	n.put(done, newID(), true, true, true)
	var tries atomic.Int32
	var well atomic.Bool
	n.maker.detach = func(_ context.Context, id string) error {
		if id != stuck || well.Load() {
			return nil
		}
		tries.Add(1)
		return unix.EBUSY
	}
	k := n.keeper(1)
	n.run(k)
	n.until("others aren't held up", func() bool { return tries.Load() > 2 && n.count(done) == 1 && n.count(ready) == 1 })
	if err := k.Status().LastError; !errors.Is(err, unix.EBUSY) {
		t.Errorf("last error: %v", err)
	}
	if err := checkNamespace(n.path(done, stuck, namespaceFile)); err != nil {
		t.Errorf("taken apart before it was detached: %v", err)
	}
	well.Store(true)
	n.settled(1)
	n.until("the error is forgotten", func() bool { return k.Status().LastError == nil })
	n.clean()
}

// TestStopped stops a Keeper while it attaches.
func TestStopped(t *testing.T) {
	n := newNetwork(t)
	begun := make(chan struct{})
	n.maker.attach = func(ctx context.Context, _ string) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	}
	k := n.keeper(1)
	stop := n.run(k)
	<-begun
	stop()
	if err := k.Status().LastError; err != nil {
		t.Errorf("to be stopped is no failure: %v", err)
	}
	n.maker.attach = nil
	stop = n.run(n.keeper(1))
	n.settled(1)
	stop()
	n.clean()
}

// TestSlow has an attachment take too long.
func TestSlow(t *testing.T) {
	n := newNetwork(t)
	var tries atomic.Int32
	n.maker.attach = func(ctx context.Context, _ string) error {
		if tries.Add(1) > 1 {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}
	k := n.keeper(1)
	k.pace.patience = 50 * time.Millisecond
	stop := n.run(k)
	n.settled(1)
	stop()
	n.clean()
}

// TestEmptied has somebody empty /run.
func TestEmptied(t *testing.T) {
	n := newNetwork(t)
	stop := n.run(n.keeper(1))
	n.settled(1)
	before := n.all()[ready][0]
	for _, path := range mounts(t, n.dir) {
		if err := unmount(path); err != nil {
			t.Fatal(err)
		}
	}
	n.until("all is removed", func() bool {
		return os.RemoveAll(n.dir) == nil || !n.has(ready, before)
	})
	n.until("there is a new one", func() bool {
		all := n.all()[ready]
		return len(all) == 1 && all[0] != before
	})
	stop()
	delete(n.maker.known, before) // nobody knows of it any more, but an agent that lists them
	n.clean()
}
