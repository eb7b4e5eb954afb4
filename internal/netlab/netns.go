// Package netlab makes network namespaces and joins them with wires: nodes and containers
// for the demo, the benchmarks and the tests, which have package netnstest on top of it.
//
// The namespaces are anonymous: nothing but an open file holds one, so nothing is
// mounted below /run/netns, and the kernel takes a namespace apart, with all that is
// in it, when it is closed or the program ends, however it ends (even by SIGKILL).
//
// All of it needs root. Everything may be called by several goroutines.
package netlab

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NS is one network namespace. Close it after use.
type NS struct{ file *os.File }

const own = "/proc/thread-self/ns/net"

// New makes an empty network namespace with lo up.
func New() (_ *NS, err error) {
	ns := &NS{}
	err = onThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() (err error) {
		ns.file, err = os.Open(own)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make a network namespace (needs root): %w", err)
	}
	err = ns.Up("lo")
	if err == nil {
		// A closed connection whose other end was cut off is tried for minutes, and would keep the
		// namespace, and all that is in it, for as long.
		err = ns.SetSysctl("net/ipv4/tcp_orphan_retries", "1")
	}
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

// Close gives the namespace up. It lives on while processes, sockets or links hold it.
func (ns *NS) Close() error { return ns.file.Close() }

// Do runs f in the namespace: on the calling goroutine, locked to its thread, so it may
// be nested. Processes that f starts are inside, goroutines are NOT. Sockets made in f
// belong to the namespace for good and hold it until they are closed.
func (ns *NS) Do(f func() error) error {
	return onThread(func() error { return unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET) }, f)
}

// onThread runs f on a thread whose network namespace move has changed. A thread that
// can't return stays locked and dies.
func onThread(move, f func() error) (err error) {
	runtime.LockOSThread()
	before, err := os.Open(own)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open this thread's network namespace: %w", err)
	}
	defer before.Close()
	if err := move(); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter a network namespace: %w", err)
	}
	defer func() { // f may end the goroutine
		if back := unix.Setns(int(before.Fd()), unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, fmt.Errorf("return to the thread's network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
	}()
	return f()
}

// File is the namespace for setns(2) and netlink; it belongs to ns: don't close it.
func (ns *NS) File() *os.File { return ns.file }

// Path names the namespace for programs that this process starts and for itself, as
// CNI_NETNS does. It is good as long as ns is open.
func (ns *NS) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.file.Fd())
}

// Netlink is a handle to talk to the namespace from any thread; the caller closes it.
func (ns *NS) Netlink() (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink in a namespace: %w", err)
	}
	return h, nil
}

// with calls f with a handle to talk to the namespace.
func (ns *NS) with(f func(*netlink.Handle) error) error {
	h, err := ns.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	return f(h)
}
