package offer

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// inotifyChild tells the test's own binary that it is in a user namespace, which has a
// limit of inotify instances of its own.
const inotifyChild = "TEST_OFFER_INOTIFY_CHILD"

func limitInotify(t *testing.T, instances int) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/user/max_inotify_instances", []byte(strconv.Itoa(instances)), 0); err != nil {
		t.Fatal(err)
	}
}

// capture has what is logged; it is read when Run has returned.
func capture(t *testing.T) *bytes.Buffer {
	t.Helper()
	var logged bytes.Buffer
	before := log.L.Logger.Out
	log.L.Logger.SetOutput(&logged)
	t.Cleanup(func() { log.L.Logger.SetOutput(before) })
	return &logged
}

// TestNoInotify has others use all instances: offers are kept all the same, and told of.
func TestNoInotify(t *testing.T) {
	if os.Getenv(inotifyChild) == "" {
		c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNoInotify$")
		c.Env = append(os.Environ(), inotifyChild+"=1")
		ids := []syscall.SysProcIDMap{{Size: 1}}
		c.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids, GidMappings: ids,
		}
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	logged := capture(t)
	limitInotify(t, 0)
	n := newNetwork(t)
	k := n.keeper(2)
	stop := n.run(k)
	n.settled(2)
	name, ok := n.take("1 2")
	if !ok {
		t.Fatal("nothing to take")
	}
	n.finish(name)
	n.until("it is taken apart", func() bool { return n.maker.wasDetached(name) })
	n.settled(2)
	if err := k.Status().LastError; !errors.Is(err, unix.EMFILE) {
		t.Errorf("last error: %v", err)
	}
	limitInotify(t, 1)
	n.until("the error is forgotten", func() bool { return k.Status().LastError == nil })
	stop()
	n.clean()
	if got := strings.Count(logged.String(), "\n"); got != 1 {
		t.Errorf("logged %d times:\n%s", got, logged)
	}
	// The instance was given back, and the next Run has it.
	stop = n.run(k)
	n.take("1 2")
	n.settled(2)
	stop()
	if err := k.Status().LastError; err != nil {
		t.Errorf("last error of the next Run: %v", err)
	}
}

// TestUnwritable has something in the way of the directory.
func TestUnwritable(t *testing.T) {
	logged := capture(t)
	n := newNetwork(t)
	if err := os.WriteFile(filepath.Dir(n.dir), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	k := n.keeper(1)
	stop := n.run(k)
	n.until("it is told of", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return errors.Is(k.lastErr, unix.ENOTDIR)
	})
	time.Sleep(3 * k.pace.rest) // for it to be logged again
	if err := k.Status().LastError; !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("last error: %v", err)
	}
	if err := os.Remove(filepath.Dir(n.dir)); err != nil {
		t.Fatal(err)
	}
	n.settled(1)
	n.until("the error is forgotten", func() bool { return k.Status().LastError == nil })
	stop()
	n.clean()
	if got := strings.Count(logged.String(), "\n"); got != 1 {
		t.Errorf("logged %d times:\n%s", got, logged)
	}
}

// TestUnknown has offers whose attachment is no more what the Maker would do now: they are
// withdrawn and detached, when a Keeper begins and while it runs.
func TestUnknown(t *testing.T) {
	n := newNetwork(t)
	good, old := newID(), newID()
	n.put(ready, good, true, true, true)
	n.put(ready, old, true, true, false)
	k := n.keeper(2)
	k.pace.resync = time.Hour // what is done at once is done because Run begins
	stop := n.run(k)
	n.until("one is detached", func() bool { return n.maker.wasDetached(old) })
	n.settled(2)
	stop()
	if !n.has(ready, good) || n.has(ready, old) {
		t.Errorf("of %s and %s are left %v", good, old, n.all())
	}
	n.clean()

	stop = n.run(n.keeper(3))
	n.settled(3) // so it has looked at the others
	before := n.all()[ready]
	n.maker.mu.Lock()
	delete(n.maker.known, good)
	n.maker.mu.Unlock()
	n.until("the other is detached", func() bool { return n.maker.wasDetached(good) })
	n.settled(3)
	stop()
	kept := slices.DeleteFunc(before, func(name string) bool { return name == good })
	if n.has(ready, good) || !n.has(ready, kept[0]) || !n.has(ready, kept[1]) {
		t.Errorf("of %v are left %v", before, n.all())
	}
	n.clean()
}
