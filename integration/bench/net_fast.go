package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/internal/netlab"
	"github.com/peregrine-dev/peregrine/netplugin/config"
)

// Names in the rows of what falcon with its fast path is compared with.
const (
	slow = "slow path" // the kernel's own devices alone, with the same rules
	host = "plain UDP" // of the two nodes, without any network of containers
)

// ways are what is compared. Both are there all the time, on nodes of their own.
var ways = []string{falcon, slow}

// fastLab is two nodes that are joined by a switch, with agents.
type fastLab struct {
	near, far *harness.Falcond
	sw        *netlab.NS // see switched
	dir       string
	lone      lodgers // none of whom asked for a class
}

// lodgers are two containers, the first on the near node.
type lodgers struct{ a, b lodger }

// slowPath makes an agent leave all packets to the kernel's own devices.
func slowPath(c *config.Config) {
	c.Shortcut.Mode, c.Priority.Mode, c.Pipeline.Mode = "off", "off", "off"
}

// class is the part of CNI's configuration that says of which class packets to a container
// are; nothing if name is empty.
func class(name string) string {
	if name == "" {
		return ""
	}
	return fmt.Sprintf(`,"priority":{"default":%q}`, name)
}

func (b *netBench) fastPhases() []netPhase {
	return []netPhase{
		{"the CPU that packets take", rowsOfCPU, 9, 22 * time.Second, b.perPacket, b.startPerPacket},
		{"streams and round trips", rowsOfLoads, 9, 28 * time.Second, b.plainLoads, nil},
		{"round trips beside a flood", rowsOfFloods, 9, 36 * time.Second, b.floods, b.startFloods},
		{"memcached beside a flood", rowsOfCaching, 9, 42 * time.Second, b.caching, b.startCaching},
		{"nginx beside a flood", rowsOfServing, 9, 48 * time.Second, b.serving, b.startServing},
	}
}

// fast measures the two ways.
func (b *netBench) fast(ctx context.Context, phases []netPhase, s samples, began time.Time) (err error) {
	if !slices.ContainsFunc(phases, func(p netPhase) bool { return b.wants(p.rows...) }) {
		return nil
	}
	if runtime.NumCPU() < 2 {
		return errors.New("this machine has one core, and the fast path is measured with two: one for each node")
	}
	// Threads that don't let go of their core leave the rest enough of them.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(8, runtime.NumCPU())))
	// A collection waits for all threads, and those that keep cores awake may not get to run.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	mark := len(b.undo)
	defer func() { err = errors.Join(err, b.clear(mark)) }()
	b.Progress("making nodes with the fast path and without", 0, 0)
	b.labs = map[string]*fastLab{}
	for _, way := range ways {
		if b.labs[way], err = b.fastLab(ctx, way); err != nil {
			return fmt.Errorf("%s: %w", way, err)
		}
	}
	for _, phase := range phases {
		round := phase.round
		phase.round = func(ctx context.Context, s samples, i int) error {
			runtime.GC()
			return round(ctx, s, i)
		}
		if err := b.run(ctx, phase, s, began); err != nil {
			return fmt.Errorf("%s: %w", phase.name, err)
		}
	}
	return nil
}

// fastLab makes the nodes of a way, and a container on each.
func (b *netBench) fastLab(ctx context.Context, way string) (*fastLab, error) {
	var ns [3]*netlab.NS
	for i := range ns {
		var err error
		if ns[i], err = b.node(); err != nil {
			return nil, err
		}
	}
	if err := switched(ns[0], ns[1], ns[2]); err != nil {
		return nil, err
	}
	l := &fastLab{sw: ns[2], dir: filepath.Join(b.dir, "lab-"+way[:4])}
	names := []string{"near-" + way[:4], "far-" + way[:4]}
	file := l.dir + ".toml"
	if err := harness.WritePeers(file, []harness.Peer{
		{Name: names[0], Address: nearAddress, Subnets: []netip.Prefix{nearSubnet}},
		{Name: names[1], Address: farAddress, Subnets: []netip.Prefix{farSubnet}},
		{Name: "void", Address: voidAddress, Subnets: []netip.Prefix{voidSubnet}},
	}); err != nil {
		return nil, err
	}
	for i, f := range []**harness.Falcond{&l.near, &l.far} {
		p := peerList[i]
		c := harness.FalconConfig(names[i], p.Address, file, "falcon", []netip.Prefix{cluster}, p.Subnets...)
		if way == slow {
			slowPath(&c)
		}
		var err error
		if *f, err = b.startAgent(ctx, ns[i], c); err != nil {
			return nil, err
		}
	}
	var err error
	l.lone, err = b.lodgers(ctx, l, "")
	return l, err
}

// lodgers attaches a container to each node of a lab.
func (b *netBench) lodgers(ctx context.Context, l *fastLab, of string) (two lodgers, err error) {
	for i, at := range []struct {
		*harness.Falcond
		to *lodger
	}{{l.near, &two.a}, {l.far, &two.b}} {
		conf := fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":"falcon","type":"falcon"%s,"ipam":{"type":"host-local","dataDir":%q}}`,
			class(of), fmt.Sprint(l.dir, "-", i))
		if *at.to, err = b.attached(ctx, at.Plugin(conf, b.debian)); err != nil {
			return two, err
		}
	}
	return two, nil
}

// packets are datagrams that are closed by undo.
func (b *netBench) packets(two lodgers) (near, far int, err error) {
	near, far, err = datagrams(two.a, two.b)
	if err == nil {
		b.undo = append(b.undo, func() error { return errors.Join(unix.Close(near), unix.Close(far)) })
	}
	return near, far, err
}

// split has the switches split bursts, until undo.
func (b *netBench) split() error {
	for _, l := range b.labs {
		b.undo = append(b.undo, func() error { return whole(l.sw, "far", "void") })
		if err := splitting(l.sw, "far", "void"); err != nil {
			return err
		}
	}
	return nil
}

// flow makes a flow of packets between two containers, to a sink.
func (b *netBench) flow(two lodgers, rate int) (f *flow, far int, err error) {
	near, far, err := b.packets(two)
	if err != nil {
		return nil, -1, err
	}
	if err := sink(far); err != nil {
		return nil, -1, err
	}
	g, err := generate(near)
	return &flow{generator: g, rate: rate}, far, err
}

// plainLoads measures a stream and round trips, when nobody asked for a class.
func (b *netBench) plainLoads(ctx context.Context, s samples, round int) error {
	for _, what := range rowsOfLoads {
		if !b.wants(what) {
			continue
		}
		for _, way := range turn(round, ways) {
			if err := ctx.Err(); err != nil {
				return err
			}
			value, err := b.labs[way].plainLoad(what)
			if err != nil {
				return fmt.Errorf("%s by %s: %w", what, way, err)
			}
			s.add(what, way, value)
		}
	}
	return nil
}

const loadTime = 400 * time.Millisecond

// plainLoad measures MiB/s, or round trips per second. A round trip has one core for all that
// it takes: waking another one takes a virtual machine longer than all the rest.
func (l *fastLab) plainLoad(what string) (value float64, err error) {
	open := connection
	if what == "udp-rr" {
		open = datagrams
	}
	near, far, err := open(l.lone.a, l.lone.b)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, unix.Close(near), unix.Close(far)) }()
	if what == "tcp-stream" {
		return streamed(near, far, loadTime)
	}
	if err := steer(l.sw, "far", farCore); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, steer(l.sw, "far", nearCore)) }()
	took, err := trips(near, far, farCore, 1, loadTime)
	return float64(len(took.Series)-took.lost) / loadTime.Seconds(), err
}

// datagrams are two UDP sockets of containers that are connected to each other.
func datagrams(a, b lodger) (near, far int, err error) {
	p := pair{a: a, b: b}
	err = p.open()
	return p.near, p.far, err
}
