package offer

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKilled begins with what a Keeper leaves that was killed at any moment.
func TestKilled(t *testing.T) {
	for name, leave := range map[string]func(*network){
		"made a directory":        func(n *network) { n.put(making, newID(), false, false, false) },
		"made the file":           func(n *network) { n.put(making, newID(), true, false, false) },
		"mounted":                 func(n *network) { n.put(making, newID(), true, true, false) },
		"attached":                func(n *network) { n.put(making, newID(), true, true, true) },
		"withdrew":                func(n *network) { n.put(making, newID(), true, true, true) },
		"used":                    func(n *network) { n.put(done, newID(), true, true, true) },
		"detached":                func(n *network) { n.put(done, newID(), true, true, false) },
		"unmounted":               func(n *network) { n.put(done, newID(), true, false, false) },
		"removed the file":        func(n *network) { n.put(done, newID(), false, false, false) },
		"rebooted with done":      func(n *network) { n.put(done, newID(), true, false, false) },
		"rebooted with ready":     func(n *network) { n.put(ready, newID(), true, false, false) },
		"rebooted and knows":      func(n *network) { n.put(ready, newID(), true, false, true) },
		"lost its records":        func(n *network) { n.put(ready, newID(), true, true, false) },
		"a directory in ready":    func(n *network) { n.put(ready, newID(), false, false, true) },
		"somebody else's in done": func(n *network) { n.put(done, "c1", true, true, true); n.maker.detach = never(n) },
		"somebody else's ready":   func(n *network) { n.put(ready, "c1", true, true, true); n.maker.detach = never(n) },
		"a file in making":        func(n *network) { n.put(making, "x", false, false, false); n.file(making, newID()) },
		"a file in ready":         func(n *network) { n.put(making, "x", false, false, false); n.file(ready, newID()) },
		"a file in done":          func(n *network) { n.put(making, "x", false, false, false); n.file(done, newID()) },
		"another kind of namespace": func(n *network) {
			id := newID()
			n.put(ready, id, true, false, true)
			n.mount("/proc/self/ns/uts", n.path(ready, id, namespaceFile))
		},
		"mounted twice": func(n *network) {
			id := newID()
			n.put(done, id, true, true, true)
			n.mount("/proc/self/ns/net", n.path(done, id, namespaceFile))
		},
		"a fifo": func(n *network) {
			id := newID()
			n.put(ready, id, false, false, true)
			if err := unix.Mkfifo(n.path(ready, id, namespaceFile), 0o600); err != nil {
				n.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t)
			good := newID()
			n.put(ready, good, true, true, true)
			leave(n)
			n.maker.mu.Lock()
			delete(n.maker.known, "c1") // a container's
			n.maker.mu.Unlock()
			stop := n.run(n.keeper(2))
			n.until("one is made", func() bool { return n.maker.count() == 1 })
			n.settled(2)
			stop()
			n.clean()
			if !n.has(ready, good) {
				t.Error("a good offer was not adopted")
			}
			if got := n.maker.count(); got != 1 {
				t.Errorf("%d were made", got)
			}
		})
	}
}

// file puts a plain file where an offer ought to be.
func (n *network) file(s state, name string) {
	n.Helper()
	err := os.MkdirAll(n.path(s), 0o700)
	if err = errors.Join(err, os.WriteFile(n.path(s, name), []byte("x"), 0o600)); err != nil {
		n.Fatal(err)
	}
}

func (n *network) mount(source, target string) {
	n.Helper()
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		n.Fatal(err)
	}
}

// TestOthersFiles leaves alone what is mounted in an offer.
func TestOthersFiles(t *testing.T) {
	n := newNetwork(t)
	name := newID()
	n.put(done, name, true, true, true)
	data := t.TempDir()
	if err := os.WriteFile(filepath.Join(data, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(n.path(done, name, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	n.mount(data, n.path(done, name, "data"))
	k := n.keeper(0)
	n.run(k)
	n.until("it is told of", func() bool { return errors.Is(k.Status().LastError, unix.EBUSY) })
	if _, err := os.Stat(filepath.Join(data, "file")); err != nil {
		t.Errorf("somebody's file: %v", err)
	}
	if err := errors.Join(unmount(n.path(done, name, "data"))); err != nil {
		t.Fatal(err)
	}
	n.settled(0)
}

// TestLostLater has offers go bad while a Keeper runs.
func TestLostLater(t *testing.T) {
	n := newNetwork(t)
	stop := n.run(n.keeper(2))
	n.settled(2)
	before := n.all()[ready]
	if err := unmount(n.path(ready, before[0], namespaceFile)); err != nil {
		t.Fatal(err)
	}
	n.maker.mu.Lock()
	delete(n.maker.known, before[1])
	n.maker.mu.Unlock()
	n.until("both are replaced", func() bool { return !n.has(ready, before[0]) && !n.has(ready, before[1]) })
	n.settled(2)
	stop()
	n.clean()
}

func TestAbandoned(t *testing.T) {
	n := newNetwork(t)
	living := processLine(t, os.Getpid())
	dead := deadLine(t)
	bundle := t.TempDir()
	gone := filepath.Join(bundle, "gone")
	type offer struct {
		owner, bundle string
		stays         bool
	}
	offers := map[string]offer{}
	add := func(o offer) {
		name := newID()
		offers[name] = o
		n.put(taken, name, true, true, true)
		if o.owner != "" {
			n.write(taken, name, ownerFile, o.owner)
		}
		if o.bundle != "" {
			n.use(name, o.bundle)
		}
	}
	for _, owner := range []string{"", dead, living, "x", fmt.Sprintf("%d 1\n", os.Getpid())} {
		for _, b := range []string{"", bundle, gone, "relative"} {
			add(offer{owner, b, owner == living || b == bundle})
		}
	}
	n.file(taken, "file")
	k := n.keeper(0)
	k.pace.ownerless = 100 * time.Millisecond
	began := time.Now()
	stop := n.run(k)
	n.until("those with a bundle are gone", func() bool {
		for name, o := range offers {
			if !o.stays && o.bundle == gone && n.has(taken, name) {
				return false
			}
		}
		return true
	})
	n.until("the others are gone", func() bool {
		for name, o := range offers {
			if !o.stays && n.has(taken, name) {
				return false
			}
			// Looked at first: the time may come while this thread waits for a processor.
			known := n.maker.Known(name)
			if !o.stays && o.bundle != gone && !known && time.Since(began) < k.pace.ownerless {
				t.Errorf("%+v went early", o)
			}
		}
		return !n.has(taken, "file")
	})
	n.settled(0)
	stop()
	for name, o := range offers {
		if n.has(taken, name) != o.stays || n.maker.Known(name) != o.stays {
			t.Errorf("%+v: stays %t, attached %t", o, n.has(taken, name), n.maker.Known(name))
		}
	}
	n.clean()
}

// TestWriting has a shim take its time to say whose an offer is.
func TestWriting(t *testing.T) {
	n := newNetwork(t)
	name := newID()
	n.put(taken, name, true, true, true)
	k := n.keeper(0)
	k.begin()
	if err := k.prepare(); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	all := []string{name}
	k.reclaim(t.Context(), all, now)
	n.write(taken, name, ownerFile, processLine(t, os.Getpid()))
	k.reclaim(t.Context(), all, now.Add(k.pace.ownerless))
	// The owner dies; the minute begins anew.
	n.write(taken, name, ownerFile, deadLine(t))
	k.reclaim(t.Context(), all, now.Add(k.pace.ownerless+1))
	k.reclaim(t.Context(), all, now.Add(2*k.pace.ownerless))
	if !n.has(taken, name) {
		t.Error("reclaimed early")
	}
	k.reclaim(t.Context(), all, now.Add(2*k.pace.ownerless+1))
	if n.has(taken, name) {
		t.Error("not reclaimed")
	}
}

func processLine(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, start, err := parseStat(text)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %d\n", pid, start)
}

// deadLine is of a process that has ended.
func deadLine(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("sleep", "inf")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := processLine(t, cmd.Process.Pid)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	return line
}

func TestZombie(t *testing.T) {
	cmd := exec.Command("sleep", "inf")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	p, start, ok := parseOwner(processLine(t, pid))
	if !ok || p != pid {
		t.Fatal("can't read a process's line")
	}
	if alive, err := isAlive(pid, start); !alive || err != nil {
		t.Errorf("before: %t, %v", alive, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if alive, err := isAlive(pid, start); alive || err != nil {
		t.Errorf("a zombie: %t, %v", alive, err)
	}
	_ = cmd.Wait()
	if alive, err := isAlive(pid, start); alive || err != nil {
		t.Errorf("after: %t, %v", alive, err)
	}
}
