package foreign

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/dump"
)

// Watcher hears what changes in one network namespace.
type Watcher struct {
	rules, routes *netlink.Conn
	names         linkNames
}

// rest is the time between two reports. The first of a burst is told at once.
const rest = 100 * time.Millisecond

// receiveBuffer of each socket, in bytes, holds what comes before Run and during bursts. If
// it overruns, that counts as a change.
const receiveBuffer = 4 << 20

// Subscribe has the calling thread's network namespace tell its changes from now on. The
// caller runs the watcher, or closes it.
func Subscribe() (*Watcher, error) {
	w, err := subscribe()
	if err != nil {
		return nil, fmt.Errorf("subscribe to changes of rules, routes and traffic control: %w", err)
	}
	return w, nil
}

func subscribe() (*Watcher, error) {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	w := &Watcher{names: make(linkNames)}
	if w.rules, err = join(ns, unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES); err != nil {
		return nil, err
	}
	w.routes, err = join(ns, unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_TC, unix.RTNLGRP_NEXTHOP,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		return nil, errors.Join(err, w.rules.Close())
	}
	links, err := dump.All(vnl.LinkList)
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	for _, l := range links {
		w.names[l.Attrs().Index] = l.Attrs().Name
	}
	return w, nil
}

func join(ns *os.File, family int, groups ...uint32) (*netlink.Conn, error) {
	conn, err := netlink.Dial(family, &netlink.Config{NetNS: int(ns.Fd())})
	if err != nil {
		return nil, err
	}
	err = conn.SetReadBuffer(receiveBuffer)
	for _, group := range groups {
		err = errors.Join(err, conn.JoinGroup(group))
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// Close ends a watcher that isn't run.
func (w *Watcher) Close() error { return errors.Join(w.rules.Close(), w.routes.Close()) }

// Run calls changed, from one goroutine, after something changed that may matter to Judge
// or to where packets go, from Subscribe on until the context ends; that is no error. What
// says for the operator what changed; of changes that come within 100 ms of a report, or
// while changed runs, one is told for all. Run closes the watcher.
//
// Not told are changes of our own: in the tables inet and bridge falcon, of routes of
// overlay.Protocol, of BPF filters that are named falcon_*, and what the kernel does for
// the overlay's links.
func (w *Watcher) Run(ctx context.Context, changed func(what string)) error {
	g, ctx := errgroup.WithContext(ctx)
	heard := make(chan string, 1) // one that waits stands for all
	g.Go(func() error { return listen(ctx, w.rules, heard, ruleNotice) })
	g.Go(func() error { return listen(ctx, w.routes, heard, w.names.notice) })
	g.Go(func() error { report(ctx, heard, changed); return nil })
	stop := context.AfterFunc(ctx, func() { // wakes those who listen
		_ = w.rules.SetReadDeadline(time.Now())
		_ = w.routes.SetReadDeadline(time.Now())
	})
	defer stop()
	err := g.Wait()
	if err != nil {
		err = fmt.Errorf("hear of changes of rules, routes and traffic control: %w", err)
	}
	return errors.Join(err, w.Close())
}

func listen(ctx context.Context, conn *netlink.Conn, heard chan<- string, notice func(netlink.Message) string) error {
	tell := func(what string) {
		select {
		case heard <- what:
		default:
		}
	}
	for {
		messages, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			tell("more than could be heard")
		case err != nil:
			return err
		}
		for _, m := range messages {
			if what := notice(m); what != "" {
				tell(what)
			}
		}
	}
}

func report(ctx context.Context, heard <-chan string, changed func(string)) {
	for {
		select {
		case <-ctx.Done():
			return
		case what := <-heard:
			changed(what)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(rest):
		}
	}
}
