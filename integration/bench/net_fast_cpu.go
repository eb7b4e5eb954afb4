package bench

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// counted is packets to a receiving node, and the same to where they end before it.
type counted struct {
	all, sending generator
	sink         int // of all
}

// startPerPacket makes generators: between containers by each way, and from node to node.
func (b *netBench) startPerPacket(context.Context) error {
	if err := b.split(); err != nil {
		return err
	}
	b.counted = map[string]counted{}
	node := b.labs[falcon]
	for name, of := range map[string]struct {
		lodgers
		nobody netip.Addr
	}{
		falcon: {node.lone, voidContainer},
		slow:   {b.labs[slow].lone, voidContainer},
		host:   {lodgers{lodger{node.near.Node, nearAddress}, lodger{node.far.Node, farAddress}}, voidAddress},
	} {
		var c counted
		f, to, err := b.flow(of.lodgers, 0)
		if err != nil {
			return fmt.Errorf("packets for %s: %w", name, err)
		}
		c.all, c.sink = f.generator, to
		fd, err := of.a.socket()
		if err != nil {
			return err
		}
		b.undo = append(b.undo, func() error { return unix.Close(fd) })
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: of.nobody.As4()}); err != nil {
			return err
		}
		if c.sending, err = generate(fd); err != nil {
			return err
		}
		b.counted[name] = c
	}
	return nil
}

// perPacket measures what a packet takes of the core of the node that receives it: what it
// takes in all, less what the same takes that ends before that node.
func (b *netBench) perPacket(ctx context.Context, s samples, round int) error {
	for _, name := range turn(round, []string{falcon, slow, host}) {
		if err := ctx.Err(); err != nil {
			return err
		}
		c := b.counted[name]
		all, err := perPacket(c.all, c.arrived)
		if err != nil {
			return fmt.Errorf("packets for %s: %w", name, err)
		}
		sending, err := perPacket(c.sending, nil)
		if err != nil {
			return fmt.Errorf("packets for %s to nobody: %w", name, err)
		}
		s.add("cpu-per-packet", name, all-sending)
		s.add("cpu-sending", name, sending)
	}
	return nil
}

// cpuBursts are sent for a sample: 50 ms, some.
const cpuBursts = 300

// perPacket measures the nanoseconds from the sending of a packet until whoever receives it
// is done with it. All of that is on one core and by one thread: veth hands packets over on
// the core of who sends, the switch steers to the same one, and softirqs run before the call
// ends that raised them. The median of bursts leaves out what anybody else does on the core.
// A burst counts if all of it arrived; arrived may be nil.
func perPacket(g generator, arrived func() (int64, error)) (ns float64, err error) {
	if arrived == nil {
		var n int64
		arrived = func() (int64, error) {
			n += burst
			return n, nil
		}
	}
	err = pinned(farCore, true, func() error {
		each := make(Series, 0, cpuBursts)
		for range cpuBursts {
			before, err := arrived()
			if err != nil {
				return err
			}
			began := time.Now()
			sent, err := g.emit()
			took := time.Since(began)
			if err != nil {
				return err
			}
			after, err := arrived()
			if err != nil {
				return err
			}
			if sent && after-before == burst {
				each = append(each, float64(took.Nanoseconds())/burst)
			}
		}
		if len(each) < cpuBursts/2 {
			return fmt.Errorf("of %d bursts of packets only %d arrived whole", cpuBursts, len(each))
		}
		ns = each.Median()
		return nil
	})
	return ns, err
}

func (c counted) arrived() (int64, error) { return sunk(c.sink) }
