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
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NS is one network namespace that lives as long as the test that made it. Its methods
// may be called by several goroutines, those that can end the test (all without an
// error result) by the test's own only.
type NS struct {
	t    testing.TB
	file *os.File
}

// New makes an empty network namespace with lo up. Its end is part of the test's
// cleanup, which fails the test if a thread of this process is still inside.
func New(t testing.TB) *NS {
	t.Helper()
	runtime.LockOSThread()
	before, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatalf("open this thread's network namespace: %v", err)
	}
	defer before.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace (tests need root): %v", err)
	}
	file, err := os.Open("/proc/thread-self/ns/net")
	if back := unix.Setns(int(before.Fd()), unix.CLONE_NEWNET); back != nil {
		t.Fatalf("return to the thread's network namespace: %v", back) // the thread stays locked and dies
	}
	runtime.UnlockOSThread()
	if err != nil {
		t.Fatalf("open the new network namespace: %v", err)
	}
	ns := &NS{t: t, file: file}
	t.Cleanup(ns.end)
	ns.Up("lo")
	return ns
}

// Do runs f in the namespace: on the calling goroutine, locked to its thread, so f may
// call t.Fatal and may nest Do. Goroutines that f starts are NOT inside. Sockets made in
// f belong to the namespace for good and hold it until they are closed.
func (ns *NS) Do(f func()) {
	ns.t.Helper()
	runtime.LockOSThread()
	before, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		ns.t.Fatalf("open this thread's network namespace: %v", err)
	}
	defer before.Close()
	if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
		ns.t.Fatalf("enter a network namespace: %v", err)
	}
	defer func() {
		if err := unix.Setns(int(before.Fd()), unix.CLONE_NEWNET); err != nil {
			ns.t.Errorf("return to the thread's network namespace: %v", err)
			return // the thread stays locked and dies
		}
		runtime.UnlockOSThread()
	}()
	f()
}

// File is the namespace for setns(2) and netlink; it belongs to ns: don't close it.
func (ns *NS) File() *os.File { return ns.file }

// Path names the namespace for programs that this process starts and for itself, as
// CNI_NETNS does. It is good as long as the test runs.
func (ns *NS) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.file.Fd())
}

// Netlink is a handle to talk to the namespace from any thread; it is closed with the test.
func (ns *NS) Netlink() *netlink.Handle {
	ns.t.Helper()
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		ns.t.Fatalf("netlink in a namespace: %v", err)
	}
	ns.t.Cleanup(h.Close)
	return h
}

func (ns *NS) end() {
	var own unix.Stat_t
	if err := unix.Fstat(int(ns.file.Fd()), &own); err != nil {
		ns.t.Errorf("stat a network namespace: %v", err)
	}
	tasks, _ := filepath.Glob("/proc/self/task/*/ns/net")
	for _, task := range tasks {
		var st unix.Stat_t
		if unix.Stat(task, &st) == nil && st.Ino == own.Ino && st.Dev == own.Dev {
			ns.t.Errorf("a thread is left in a network namespace of the test: %s", task)
		}
	}
	if err := ns.file.Close(); err != nil {
		ns.t.Errorf("close a network namespace: %v", err)
	}
}
