package attach

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// doomed is the link group (IFLA_GROUP, a number without meaning to the kernel) of links
// that are unplugged: the kernel deletes a group by one message, at about the price of
// one link. It spells "fvfv".
const doomed = 0x66766676

// Detacher detaches containers without making the caller wait for the kernel: Unplug
// cuts the container off, the deletion of the link follows in the background, many at
// once. However one deletes a veth (the host's end, the container's, set down before or
// not), it takes the kernel some 20 ms; a group of 40 takes 40 ms.
//
// An unplugged link keeps its name, and the container's end its name and addresses, until
// they are deleted: who wants to attach the same interface again calls Flush before. A
// process that dies between leaves unplugged links, which the next Detacher in the same
// network namespace deletes when it is made.
//
// Safe for concurrent use. It owns one goroutine, which ends with Close.
type Detacher struct {
	unplug, del sockets       // apart: a deletion holds its own for long
	wake        chan struct{} // has room for one
	ended       chan struct{} // closed when the goroutine has returned

	mu      sync.Mutex
	closed  bool
	next    *batch // those unplugged since the last deletion began
	current *batch // those being deleted
}

type batch struct {
	links map[string]bool
	done  chan struct{} // closed when they are deleted, or could not be
	err   error         // read it after done
}

func newBatch() *batch { return &batch{links: map[string]bool{}, done: make(chan struct{})} }

// NewDetacher works in the calling thread's network namespace from then on.
func NewDetacher() (*Detacher, error) {
	unplug, err := openSockets()
	if err != nil {
		return nil, err
	}
	del, err := openSockets()
	if err != nil {
		unplug.close()
		return nil, err
	}
	d := &Detacher{unplug: unplug, del: del, wake: make(chan struct{}, 1), ended: make(chan struct{}), next: newBatch()}
	d.wake <- struct{}{} // for what a Detacher before this one left
	go d.run()
	return d, nil
}

// Unplug sets the host's end of a container's link down, so that no packet passes in
// either direction when it returns, and has the link deleted later. A link that is gone
// already is no error. After Close: errdefs.ErrUnavailable.
func (d *Detacher) Unplug(link string) error {
	if err := ours(link); err != nil {
		return fmt.Errorf("unplug: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("unplug %s: the detacher is closed: %w", link, errdefs.ErrUnavailable)
	}
	down := nl.NewIfInfomsg(unix.AF_UNSPEC)
	down.Change = unix.IFF_UP
	err := d.unplug.execute(request(unix.RTM_SETLINK, down,
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(link)),
		nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(doomed))))
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set link %s down: %w", link, err)
	}
	d.next.links[link] = true
	select {
	case d.wake <- struct{}{}:
	default:
	}
	return nil
}

// Flush returns when the deletion of all that was unplugged before is over, however it
// went.
func (d *Detacher) Flush(ctx context.Context) error {
	d.mu.Lock()
	var pending []*batch
	for _, b := range []*batch{d.current, d.next} {
		if b != nil && len(b.links) > 0 {
			pending = append(pending, b)
		}
	}
	d.mu.Unlock()
	for _, b := range pending {
		select {
		case <-b.done:
		case <-ctx.Done():
			return fmt.Errorf("wait for the deletion of links: %w", ctx.Err())
		}
	}
	return nil
}

// Close returns when all that was unplugged is deleted. It may be called again.
func (d *Detacher) Close() error {
	d.mu.Lock()
	last := !d.closed
	d.closed = true
	d.mu.Unlock()
	if last {
		close(d.wake)
	}
	<-d.ended
	return d.next.err
}

func (d *Detacher) run() {
	defer close(d.ended)
	for range d.wake {
		d.mu.Lock()
		d.current, d.next = d.next, newBatch()
		d.mu.Unlock()
		d.delete(d.current)
	}
	// Closed: nobody adds any more.
	d.delete(d.next)
	d.unplug.close()
	d.del.close()
}

func (d *Detacher) delete(b *batch) {
	err := d.del.execute(request(unix.RTM_DELLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(doomed))))
	if err != nil && !errors.Is(err, unix.ENODEV) {
		b.err = fmt.Errorf("delete %d unplugged links: %w", len(b.links), err)
	}
	close(b.done)
}

// sockets is one netlink socket as the library wants it. A call waits for the one before.
type sockets map[int]*nl.SocketHandle

func openSockets() (sockets, error) {
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink for detaching containers: %w", err)
	}
	return sockets{unix.NETLINK_ROUTE: {Socket: s}}, nil
}

func (s sockets) execute(req *nl.NetlinkRequest) error {
	req.Sockets = s
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func (s sockets) close() { s[unix.NETLINK_ROUTE].Close() }
