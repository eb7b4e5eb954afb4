// Package netnstest makes network namespaces for tests and joins them with wires.
//
// The namespaces are anonymous: nothing but an open file holds one, so nothing is
// mounted below /run/netns, and the kernel takes a namespace apart, with all that is
// in it, when its test ends, however it ends (even by SIGKILL).
//
//	a, b := netnstest.New(t), netnstest.New(t)
//	netnstest.Wire(netnstest.End{NS: a, Link: "eth0"}, netnstest.End{NS: b, Link: "eth0"}, 1500)
//	a.Address("eth0", "10.0.0.1/24")
//	b.Address("eth0", "10.0.0.2/24")
//	b.Echo("udp", "10.0.0.2:7")
//	if err := a.Try("udp", "10.0.0.2:7", time.Second); err != nil { ... }
//
// Helpers that can't fail in a sound test end the test by themselves. It needs root.
package netnstest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/internal/netlab"
)

// NS is one network namespace that lives as long as the test that made it. Its methods
// may be called by several goroutines, those that can end the test (all without an
// error result) by the test's own only.
type NS struct {
	t   testing.TB
	lab *netlab.NS
}

// New makes an empty network namespace with lo up. Its end is part of the test's
// cleanup, which fails the test if a thread of this process is still inside.
func New(t testing.TB) *NS {
	t.Helper()
	lab, err := netlab.New()
	if err != nil {
		t.Fatal(err)
	}
	ns := &NS{t: t, lab: lab}
	t.Cleanup(ns.end)
	return ns
}

// Do runs f in the namespace: on the calling goroutine, locked to its thread, so f may
// call t.Fatal and may nest Do. Goroutines that f starts are NOT inside. Sockets made in
// f belong to the namespace for good and hold it until they are closed.
func (ns *NS) Do(f func()) {
	ns.t.Helper()
	ns.must(ns.lab.Do(func() error { f(); return nil }))
}

// File is the namespace for setns(2) and netlink; it belongs to ns: don't close it.
func (ns *NS) File() *os.File { return ns.lab.File() }

// Path names the namespace for programs that this process starts and for itself, as
// CNI_NETNS does. It is good as long as the test runs.
func (ns *NS) Path() string { return ns.lab.Path() }

// Netlink is a handle to talk to the namespace from any thread; it is closed with the test.
func (ns *NS) Netlink() *netlink.Handle {
	ns.t.Helper()
	h, err := ns.lab.Netlink()
	ns.must(err)
	ns.t.Cleanup(h.Close)
	return h
}

// must ends the test after an error.
func (ns *NS) must(err error) {
	ns.t.Helper()
	if err != nil {
		ns.t.Fatal(err)
	}
}

func (ns *NS) end() {
	var own unix.Stat_t
	if err := unix.Fstat(int(ns.File().Fd()), &own); err != nil {
		ns.t.Errorf("stat a network namespace: %v", err)
	}
	// A thread ends a little later than its goroutine.
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		tasks, _ := filepath.Glob("/proc/self/task/*/ns/net")
		i := slices.IndexFunc(tasks, func(task string) bool {
			var st unix.Stat_t
			return unix.Stat(task, &st) == nil && st.Ino == own.Ino && st.Dev == own.Dev
		})
		if i < 0 {
			break
		}
		if time.Now().After(end) {
			ns.t.Errorf("a thread is left in a network namespace of the test: %s", tasks[i])
			break
		}
	}
	if err := ns.lab.Close(); err != nil {
		ns.t.Errorf("close a network namespace: %v", err)
	}
}
