package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/internal/netlab"
	"github.com/peregrine-dev/peregrine/netplugin/attach"
	"github.com/peregrine-dev/peregrine/netplugin/overlay"
)

// Paths that packets take.
const (
	local  = "bridge"  // between containers of a node
	remote = "overlay" // between those of two
)

// pair is two containers and what connects them.
type pair struct {
	path, plugin string
	a, b         lodger
	near, far    int // UDP sockets that are connected to each other
}

// lodger is a container with its address.
type lodger struct {
	*netlab.NS
	address netip.Addr
}

// startPaths makes the pairs.
func (b *netBench) startPaths(ctx context.Context) error {
	b.pairs = nil
	bare, err := b.bareOverlay()
	if err != nil {
		return err
	}
	one, err := b.lodger(ctx, falcon, true)
	if err != nil {
		return err
	}
	two, err := b.lodger(ctx, falcon, true)
	if err != nil {
		return err
	}
	three, err := b.lodger(ctx, falcon, false)
	if err != nil {
		return err
	}
	four, err := b.lodger(ctx, bridge, true)
	if err != nil {
		return err
	}
	five, err := b.lodger(ctx, bridge, true)
	if err != nil {
		return err
	}
	for _, p := range []pair{
		{path: local, plugin: falcon, a: one, b: two},
		{path: local, plugin: bridge, a: four, b: five},
		{path: remote, plugin: falcon, a: one, b: three},
		{path: remote, plugin: unguarded, a: bare[0], b: bare[1]},
	} {
		if err := p.open(); err != nil {
			return err
		}
		b.undo = append(b.undo, p.close)
		b.pairs = append(b.pairs, p)
	}
	return nil
}

// lodger attaches a container, to this node or for ours to the other.
func (b *netBench) lodger(ctx context.Context, name string, near bool) (lodger, error) {
	plugin := b.plugin(name)
	if !near {
		plugin = b.far.Plugin(fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":"falcon","type":"falcon","ipam":{"type":"host-local","dataDir":%q}}`, b.dir+"/far"), b.debian)
	}
	return b.attached(ctx, plugin)
}

// attached makes a container and attaches it.
func (b *netBench) attached(ctx context.Context, plugin harness.CNI) (lodger, error) {
	id := b.id()
	ns, err := b.node()
	if err != nil {
		return lodger{}, err
	}
	output, _, err := plugin.Run(ctx, "ADD", id, ns)
	if err != nil {
		return lodger{}, err
	}
	b.undo = append(b.undo, func() error {
		_, _, err := plugin.Run(context.WithoutCancel(ctx), "DEL", id, ns)
		return err
	})
	var result types100.Result
	if err := json.Unmarshal(output, &result); err != nil {
		return lodger{}, err
	}
	if len(result.IPs) == 0 {
		return lodger{}, fmt.Errorf("%s gave %s no address: %s", filepath.Base(plugin.Program), id, output)
	}
	address, _ := netip.AddrFromSlice(result.IPs[0].Address.IP)
	return lodger{ns, address.Unmap()}, nil
}

// bareOverlay makes two nodes with the devices and routes that falcon makes, a container
// on each, and nothing that looks at packets.
func (b *netBench) bareOverlay() (containers [2]lodger, err error) {
	var nodes [2]*netlab.NS
	for i := range nodes {
		if nodes[i], err = b.node(); err != nil {
			return containers, err
		}
		if containers[i].NS, err = b.node(); err != nil {
			return containers, err
		}
	}
	if err := wire(nodes[0], nodes[1]); err != nil {
		return containers, err
	}
	for i, node := range nodes {
		self, other := peerList[i], peerList[1-i]
		o, err := overlay.New(overlay.Underlay{Address: self.Address, Port: 4789})
		if err != nil {
			return containers, err
		}
		gateway := self.Subnets[0].Addr().Next()
		containers[i].address = gateway.Next()
		err = node.Do(func() error {
			mtu, err := o.MTU()
			if err != nil {
				return err
			}
			network := overlay.Network{VNI: 1, Subnets: self.Subnets, Cluster: []netip.Prefix{cluster}, MTU: mtu}
			if _, err := o.Ensure(network, []overlay.Remote{{Address: other.Address, Subnets: other.Subnets}}); err != nil {
				return err
			}
			return attach.Attach(containers[i].File(), attach.Spec{
				Link: attach.LinkName("bare", "eth0"), Bridge: overlay.Bridge(1), Name: "eth0", MTU: mtu,
				Addresses: []netip.Prefix{netip.PrefixFrom(containers[i].address, self.Subnets[0].Bits())}, Gateways: []netip.Addr{gateway},
			})
		})
		if err != nil {
			return containers, err
		}
	}
	return containers, nil
}

// paths measures each path of ours and of the peer.
func (b *netBench) paths(ctx context.Context, s samples, round int) error {
	if round == 0 { // neighbours are found, and windows grow
		if err := b.everyPath(ctx, samples{}, 0); err != nil {
			return err
		}
	}
	return b.everyPath(ctx, s, round)
}

func (b *netBench) everyPath(ctx context.Context, s samples, round int) error {
	for i := range b.pairs {
		p := &b.pairs[i^round&1] // ours and the peer's are side by side
		if err := ctx.Err(); err != nil {
			return err
		}
		each, err := p.pingPong(pings)
		if err != nil {
			return fmt.Errorf("round trips by %s of %s: %w", p.path, p.plugin, err)
		}
		s.add("pingpong-"+p.path, p.plugin, float64(each.Nanoseconds())/1e3)
		if p.path == local {
			continue
		}
		rate, err := p.stream(streamBytes)
		if err != nil {
			return fmt.Errorf("a stream by %s of %s: %w", p.path, p.plugin, err)
		}
		s.add("tcp-"+p.path, p.plugin, rate)
	}
	return nil
}

const (
	pings       = 300
	streamBytes = 64 << 20
	// patience is for a packet that got lost.
	patience = 30 * time.Second
)

// open makes the sockets. Their calls block a thread, as those of most programs do: the
// runtime's poller has no part in what is measured.
func (p *pair) open() (err error) {
	p.near, p.far = -1, -1
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.near, err = p.a.socket(); err != nil {
		return err
	}
	if p.far, err = p.b.socket(); err != nil {
		return err
	}
	return errors.Join(join(p.near, p.far), join(p.far, p.near))
}

func (p *pair) close() (err error) {
	for _, fd := range []int{p.near, p.far} {
		if fd >= 0 {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	return err
}

// socket is a UDP socket of a container.
func (l lodger) socket() (fd int, err error) {
	err = l.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, err
	}
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: l.address.As4()}),
	)
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// join connects a socket to where another is bound.
func join(fd, to int) error {
	address, err := unix.Getsockname(to)
	if err != nil {
		return err
	}
	return unix.Connect(fd, address)
}

// pingPong sends a small packet back and forth n times, and returns how long one round
// trip takes.
func (p *pair) pingPong(n int) (each time.Duration, err error) {
	var g errgroup.Group
	g.Go(func() error { return echo(p.far, n) })
	buffer := make([]byte, 64)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := time.Now()
	for range n {
		if _, err = unix.Write(p.near, buffer[:32]); err != nil {
			break
		}
		if _, err = read(p.near, buffer); err != nil {
			break
		}
	}
	took := time.Since(began)
	return took / time.Duration(n), errors.Join(err, g.Wait())
}

// echo sends n packets back.
func echo(fd, n int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	buffer := make([]byte, 64)
	for range n {
		size, err := read(fd, buffer)
		if err != nil {
			return err
		}
		if _, err := unix.Write(fd, buffer[:size]); err != nil {
			return err
		}
	}
	return nil
}

func read(fd int, buffer []byte) (n int, err error) {
	err = uninterrupted(func() (err error) {
		n, err = unix.Read(fd, buffer)
		return err
	})
	if errors.Is(err, unix.EAGAIN) {
		return 0, fmt.Errorf("nothing came for %s: %w", patience, os.ErrDeadlineExceeded)
	}
	return n, err
}

// uninterrupted makes a system call until no signal interrupts it: calls of a socket that has
// a timeout are not restarted by themselves, signal(7), and the Go runtime sends signals.
func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// stream sends bytes over a TCP connection, and returns MiB/s from the first to the last
// that arrives.
func (p *pair) stream(size int64) (rate float64, err error) {
	l, err := p.b.Listen("tcp", netip.AddrPortFrom(p.b.address, 0).String())
	if err != nil {
		return 0, err
	}
	defer l.Close()
	to, err := p.a.Dial("tcp", l.Addr().String(), patience)
	if err != nil {
		return 0, err
	}
	defer to.Close()
	from, err := l.Accept()
	if err != nil {
		return 0, err
	}
	defer from.Close()
	deadline := time.Now().Add(time.Minute)
	if err := errors.Join(to.SetDeadline(deadline), from.SetDeadline(deadline)); err != nil {
		return 0, err
	}
	var g errgroup.Group
	g.Go(func() error {
		block := make([]byte, 1<<20)
		for left := size; left > 0; left -= int64(len(block)) {
			if _, err := to.Write(block); err != nil {
				return err
			}
		}
		return nil
	})
	buffer := make([]byte, 1<<20)
	began := time.Now()
	for left := size; left > 0; {
		n, rerr := from.Read(buffer)
		left -= int64(n)
		if rerr != nil {
			err = fmt.Errorf("%d bytes before the end: %w", left, rerr)
			if errors.Is(rerr, io.EOF) && left == 0 {
				err = nil
			}
			break
		}
	}
	took := time.Since(began)
	if err != nil {
		to.Close()
	}
	return float64(size) / (1 << 20) / took.Seconds(), errors.Join(err, g.Wait())
}
