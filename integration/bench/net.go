package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/internal/netlab"
	"github.com/peregrine-dev/peregrine/netplugin/attach"
	"github.com/peregrine-dev/peregrine/netplugin/config"
)

// Names of the plugins in the rows.
const (
	falcon    = "falcon"
	falconAPI = "falcon-agent" // its agent alone, without the program that asks it
	pooled    = "falcon-offer" // of a namespace that was made ahead
	bridge    = "bridge"       // the reference plugins bridge and host-local
	unmasked  = "bridge-plain" // the same without masquerading
	unguarded = "no firewall"  // ours' devices with nobody who looks at packets
)

// networkMTU is that of wires between nodes, in bytes.
const networkMTU = 1500

// netBench is some nodes, network namespaces all of them, and those of containers.
type netBench struct {
	Options
	dir    string
	debian harness.Debian

	near, far *harness.Falcond // joined by a wire
	lull      *netlab.NS       // where nothing is; see calm
	reference *netlab.NS       // a node with the reference plugins
	crowded   *harness.Falcond // with many containers
	ready     *readyOffers
	pairs     []pair
	labs      map[string]*fastLab // by the way that packets take
	counted   map[string]counted
	flooded   map[string]*flooded
	conf      map[string][]byte // of networks, by the plugin's name
	made      int               // containers so far
	undo      []func() error
	notes     netNotes
}

// netNotes is what the rows' notes say besides their samples.
type netNotes struct {
	crowd, burst int            // how many there were
	failed       map[string]int // of a burst's, by plugin
}

// Network measures falcon against the reference plugins bridge and host-local, each on a
// node of its own, and the overlay against the same devices without a firewall.
func Network(ctx context.Context, o Options) (rows []Row, err error) {
	began := time.Now()
	b := &netBench{Options: o, notes: netNotes{failed: map[string]int{}}}
	phases, fast := b.phases(), b.fastPhases()
	if err := known(o.Rows, append(phases, fast...)); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.clear(0)) }()
	o.Progress("making nodes", 0, 0)
	if err := b.setUp(ctx); err != nil {
		return nil, err
	}
	s := samples{}
	for _, phase := range phases {
		if err := b.run(ctx, phase, s, began); err != nil {
			return nil, fmt.Errorf("%s: %w", phase.name, err)
		}
	}
	if err := b.fast(ctx, fast, s, began); err != nil {
		return nil, err
	}
	rows = append(netRows(s, b.notes), fastRows(s)...)
	return slices.DeleteFunc(rows, func(r Row) bool { return !o.wants(r.Name) }), nil
}

func (b *netBench) phases() []netPhase {
	return []netPhase{
		{"attaching and detaching", rowsOfLives, 60, 6 * time.Second, b.lives, nil},
		{"namespaces made ahead", rowsOfOffers, 60, 9 * time.Second, b.offers, b.startOffers},
		{"packets", rowsOfPaths, 60, 11 * time.Second, b.paths, b.startPaths},
		{"a node with many containers", rowsOfCrowd, 60, 14 * time.Second, b.crowd, b.startCrowd},
		{"many at once", rowsOfBurst, 3, 15 * time.Second, b.burst, nil},
	}
}

// known checks that there are such rows.
func known(rows []string, phases []netPhase) error {
	var all []string
	for _, p := range phases {
		all = append(all, p.rows...)
	}
	for _, r := range rows {
		if !slices.Contains(all, r) {
			return fmt.Errorf("no row %q, want some of %s: %w", r, strings.Join(all, ", "), errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// netPhase is one kind of measurement.
type netPhase struct {
	name    string
	rows    []string // that it is for
	samples int
	end     time.Duration // of a quick run
	round   func(context.Context, samples, int) error
	start   func(context.Context) error // may be nil
}

// run runs a phase if any of its rows is wanted, and takes away what was made for it.
func (b *netBench) run(ctx context.Context, p netPhase, s samples, began time.Time) (err error) {
	if !b.wants(p.rows...) {
		return nil
	}
	mark := len(b.undo)
	defer func() { err = errors.Join(err, b.clear(mark)) }()
	b.Progress("measuring "+p.name, 0, int64(p.samples))
	if p.start != nil {
		if err := p.start(ctx); err != nil {
			return err
		}
	}
	rounds := b.rounds(p.samples, began.Add(p.end))
	for i := 0; rounds.next(); i++ {
		b.Progress("measuring "+p.name, int64(i), int64(p.samples))
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := p.round(ctx, s, i); err != nil {
			return err
		}
	}
	return nil
}

// setUp makes the nodes. What there is to be undone is in undo, also after an error.
func (b *netBench) setUp(ctx context.Context) error {
	var err error
	if b.debian, err = harness.FindDebian(b.Cache); err != nil {
		return err
	}
	dir, err := harness.NewDir(b.Cache)
	if err != nil {
		return err
	}
	b.undo = append(b.undo, dir.Remove)
	b.dir = dir.Path
	b.conf = map[string][]byte{
		falcon: fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":"falcon","type":"falcon","ipam":{"type":"host-local","dataDir":%q}}`,
			filepath.Join(b.dir, "falcon")),
		bridge:   b.referenceConf("bench0", "10.98.0.0/20", true),
		unmasked: b.referenceConf("bench1", "10.99.0.0/20", false),
	}
	if b.lull, err = b.node(); err != nil {
		return err
	}
	if b.reference, err = b.node(); err != nil {
		return err
	}
	near, err := b.node()
	if err != nil {
		return err
	}
	far, err := b.node()
	if err != nil {
		return err
	}
	if err := wire(near, far); err != nil {
		return err
	}
	file := filepath.Join(b.dir, "peers.toml")
	if err := harness.WritePeers(file, peerList); err != nil {
		return err
	}
	if b.near, err = b.agent(ctx, near, "near", file); err != nil {
		return err
	}
	b.far, err = b.agent(ctx, far, "far", file)
	return err
}

// referenceConf is the reference plugin's with what falcon does, too: the node is the
// gateway of a default route.
func (b *netBench) referenceConf(link, subnet string, masquerade bool) []byte {
	return fmt.Appendf(nil, `{"cniVersion":"1.0.0","name":%q,"type":"bridge","bridge":%q,
		"isGateway":true,"isDefaultGateway":true,"ipMasq":%t,
		"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":%q}]]}}`,
		link, link, masquerade, filepath.Join(b.dir, "reference"), subnet)
}

// Addresses of the nodes that are joined by a wire, and their containers'.
var (
	nearAddress = netip.MustParseAddr("192.0.2.1")
	farAddress  = netip.MustParseAddr("192.0.2.2")
	nearSubnet  = netip.MustParsePrefix("10.88.0.0/20")
	farSubnet   = netip.MustParsePrefix("10.88.16.0/20")
	cluster     = netip.MustParsePrefix("10.88.0.0/16")
)

var peerList = []harness.Peer{
	{Name: "near", Address: nearAddress, Subnets: []netip.Prefix{nearSubnet}},
	{Name: "far", Address: farAddress, Subnets: []netip.Prefix{farSubnet}},
}

// wire joins two nodes.
func wire(near, far *netlab.NS) error {
	return errors.Join(
		netlab.Wire(netlab.End{NS: near, Link: "eth0"}, netlab.End{NS: far, Link: "eth0"}, networkMTU),
		near.Address("eth0", nearAddress.String()+"/24"), far.Address("eth0", farAddress.String()+"/24"),
	)
}

// node makes a network namespace for a node or a container.
func (b *netBench) node() (*netlab.NS, error) {
	ns, err := netlab.New()
	if err == nil {
		b.undo = append(b.undo, ns.Close)
	}
	return ns, err
}

// agent starts an agent. Nodes that aren't joined to others have a wire, too, as it is
// the underlay that tells the MTU.
func (b *netBench) agent(ctx context.Context, node *netlab.NS, name, file string, env ...string) (*harness.Falcond, error) {
	address, subnet := nearAddress, nearSubnet
	if name == "far" {
		address, subnet = farAddress, farSubnet
	}
	c := harness.FalconConfig(name, address, file, "falcon", []netip.Prefix{cluster}, subnet)
	return b.startAgent(ctx, node, c, env...)
}

// clear undoes what was done since the mark.
func (b *netBench) clear(mark int) (err error) {
	for i := len(b.undo) - 1; i >= mark; i-- {
		err = errors.Join(err, b.undo[i]())
	}
	b.undo = b.undo[:mark]
	return err
}

// plugin is the plugin of a name, as it is executed.
func (b *netBench) plugin(name string) harness.CNI {
	if name == falcon {
		return b.near.Plugin(b.conf[falcon], b.debian)
	}
	return harness.CNI{
		Node: b.reference, Program: filepath.Join(b.debian.CNI(), "bridge"), Conf: b.conf[name],
		Env: b.debian.Env(), Path: b.debian.CNI(),
	}
}

// id is that of a new container.
func (b *netBench) id() string {
	b.made++
	return fmt.Sprintf("bench-%d", b.made)
}

// calm waits until the kernel is done with what was deleted before, so that nobody pays
// for the one before: its deletions of links end in order.
func (b *netBench) calm() error {
	at := func(link string) netlab.End { return netlab.End{NS: b.lull, Link: link} }
	if err := netlab.Wire(at("a"), at("b"), networkMTU); err != nil {
		return err
	}
	return b.lull.Delete("a")
}

// gone waits until a container's link is deleted: falcon's DEL leaves that to the agent.
// It returns how long that took.
func gone(ctx context.Context, node *netlab.NS, id string) (time.Duration, error) {
	began := time.Now()
	h, err := node.Netlink()
	if err != nil {
		return 0, err
	}
	defer h.Close()
	for {
		_, err := h.LinkByName(attach.LinkName(id, "eth0"))
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return time.Since(began), nil
		}
		if err != nil {
			return 0, err
		}
		if time.Since(began) > time.Minute {
			return 0, fmt.Errorf("the link of %s is still there", id)
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// startAgent starts an agent of a configuration.
func (b *netBench) startAgent(ctx context.Context, node *netlab.NS, c config.Config, env ...string) (*harness.Falcond, error) {
	f, err := harness.StartFalcond(ctx, b.Bin, b.dir, node, c, env...)
	if err != nil {
		return nil, err
	}
	b.undo = append(b.undo, f.Remove)
	return f, nil
}
