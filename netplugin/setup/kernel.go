package setup

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/internal/check"
	"github.com/peregrine-dev/peregrine/netplugin/fastpath"
	"github.com/peregrine-dev/peregrine/netplugin/firewall"
)

// probe tries one thing that the network plugin needs, in a network namespace of its own.
type probe struct {
	name  string
	works string
	// without says what follows where it doesn't work, and otherwise is what that makes
	// of the plugin.
	without   string
	otherwise check.Status
	try       func() error
}

// noNetwork is what most of what is missing leads to.
const noNetwork = "containers get no network"

func kernelProbes() []probe {
	return []probe{
		{
			"network namespaces", "can be made", noNetwork,
			check.Missing, func() error { return nil },
		},
		{
			"bridge", "containers of a node meet on one", noNetwork,
			check.Missing, bridge,
		},
		{
			"veth", "can be made right inside a container's namespace", noNetwork,
			check.Missing, veth,
		},
		{
			"vxlan", "networks reach other nodes", "networks can't be set up, not even on one node",
			check.Missing, vxlan,
		},
		{
			"nftables inet", "sets of ranges, counters in sets", noNetwork,
			check.Missing, inetRules,
		},
		{
			"nftables fib", "sources are checked by their routes", noNetwork,
			check.Missing, fibRules,
		},
		{
			"nftables nat", "what leaves a network is masqueraded", noNetwork,
			check.Missing, natRules,
		},
		{
			"nftables bridge", "containers send with their own addresses only", noNetwork,
			check.Missing, bridgeRules,
		},
		{
			"firewall", "its rules can be loaded, as they are", noNetwork,
			check.Missing, firewall.Supported,
		},
	}
}

// fastProbes are of what the shortcut and the classes need. Networks work without.
func fastProbes(f fastpath.Features) []probe {
	const (
		noShortcut = "all packets take the kernel's path, and classes change nothing"
		noXDP      = "packets of class high don't overtake others, and stages of receiving stay on one core"
	)
	limited := func(name, works, without string, err error) probe {
		return probe{name, works, without, check.Limited, func() error { return err }}
	}
	return []probe{
		limited("eBPF", "programs run where links take and give packets", noShortcut, f.Programs),
		limited("bpf_redirect_peer", "packets go right into a container", noShortcut, f.RedirectPeer),
		limited("bpf_check_mtu", "packets that are too long are left to the kernel", noShortcut, f.CheckMTU),
		limited("tcx", "programs are attached beside others' and replaced in one step",
			"they are attached by clsact, where others' filters may be deleted with them", f.TCX),
		limited("XDP", "packets are ordered before the kernel queues them", noXDP, f.XDP),
		limited("cpumap", "packets wait on a core, or are moved to another", noXDP, f.CPUMap),
		{"programs of the shortcut", "the kernel's verifier takes them", noShortcut, check.Limited, func() error {
			p, err := fastpath.Open(f)
			if err != nil {
				return err
			}
			return p.Close()
		}},
	}
}

// Kernel probes what the network plugin needs of the kernel. It asks for what is used and
// compares no versions. It leaves nothing behind. Without root it can't tell.
func Kernel() []check.Result {
	if os.Geteuid() != 0 {
		return []check.Result{result("kernel", check.Limited, "not probed: that needs root")}
	}
	var results []check.Result
	for _, p := range append(kernelProbes(), fastProbes(fastpath.Probe())...) {
		results = append(results, p.run())
	}
	return results
}

func (p probe) run() check.Result {
	if err := aside(p.try); err != nil {
		return result(p.name, p.otherwise, fmt.Sprintf("%v: %s", err, p.without))
	}
	return result(p.name, check.OK, p.works)
}

// aside runs fn on a thread with a network namespace of its own. The thread ends with fn,
// and so does the namespace.
func aside(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- os.NewSyscallError("unshare", err)
			return
		}
		done <- fn()
	}()
	return <-done
}

// The probes of links. They are for aside.

func bridge() error {
	return add(&netlink.Bridge{LinkAttrs: named("fb1")})
}

func vxlan() error {
	return add(&netlink.Vxlan{LinkAttrs: named("fx1"), VxlanId: 1, Port: 4789, SrcAddr: net.IPv4(192, 0, 2, 1)})
}

// veth makes one end in a namespace that the thread was in before.
func veth() error {
	container, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer container.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	return add(&netlink.Veth{LinkAttrs: named("fv1"), PeerName: "eth0", PeerNamespace: netlink.NsFd(int(container.Fd()))})
}

func named(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return attrs
}

// add makes a link and brings it up.
func add(l netlink.Link) error {
	if err := netlink.LinkAdd(l); err != nil {
		return fmt.Errorf("make a link of type %s: %w", l.Type(), err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("bring up a link of type %s: %w", l.Type(), err)
	}
	return nil
}

// The probes of nftables. They are for aside. Each rule has what only it needs of the
// kernel.

// source loads the IPv4 source beside the name of the link the packet came by.
var source = []expr.Any{
	&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG_1},
	&expr.Payload{DestRegister: unix.NFT_REG_2, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
}

var drop = &expr.Verdict{Kind: expr.VerdictDrop}

func inetRules() error {
	return load(nftables.TableFamilyINet, nftables.ChainTypeFilter, nftables.ChainHookForward, func(conn *nftables.Conn, t *nftables.Table) ([]expr.Any, error) {
		ranges := &nftables.Set{
			Table: t, Name: "ranges", Interval: true, Concatenation: true,
			KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr),
		}
		counters := &nftables.Set{
			Table: t, Name: "counters", Dynamic: true, Size: 16, KeyType: nftables.TypeIFName,
		}
		return append(
			source[:len(source):len(source)],
			&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: ranges.Name, SetID: ranges.ID},
			&expr.Dynset{
				SrcRegKey: unix.NFT_REG_1, SetName: counters.Name, Operation: unix.NFT_DYNSET_OP_ADD,
				Exprs: []expr.Any{&expr.Counter{}},
			},
			drop,
		), errors.Join(conn.AddSet(ranges, nil), conn.AddSet(counters, nil))
	})
}

func fibRules() error {
	return load(nftables.TableFamilyINet, nftables.ChainTypeFilter, nftables.ChainHookPrerouting, func(*nftables.Conn, *nftables.Table) ([]expr.Any, error) {
		return []expr.Any{
			&expr.Fib{Register: unix.NFT_REG_1, FlagSADDR: true, FlagIIF: true, ResultOIF: true},
			&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: make([]byte, 4)},
			drop,
		}, nil
	})
}

func natRules() error {
	return load(nftables.TableFamilyINet, nftables.ChainTypeNAT, nftables.ChainHookPostrouting, func(*nftables.Conn, *nftables.Table) ([]expr.Any, error) {
		return []expr.Any{&expr.Masq{FullyRandom: true}}, nil
	})
}

func bridgeRules() error {
	return load(nftables.TableFamilyBridge, nftables.ChainTypeFilter, nftables.ChainHookPrerouting, func(conn *nftables.Conn, t *nftables.Table) ([]expr.Any, error) {
		own := &nftables.Set{
			Table: t, Name: "own", Concatenation: true,
			KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr),
		}
		return append(
			source[:len(source):len(source)],
			&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: own.Name, Invert: true},
			drop,
		), conn.AddSet(own, nil)
	})
}

// load has the kernel take a table with a chain and the rule that a function makes.
func load(family nftables.TableFamily, kind nftables.ChainType, hook *nftables.ChainHook, rule func(*nftables.Conn, *nftables.Table) ([]expr.Any, error)) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	t := conn.AddTable(&nftables.Table{Family: family, Name: Name})
	c := conn.AddChain(&nftables.Chain{Table: t, Name: "probe", Type: kind, Hooknum: hook, Priority: nftables.ChainPriorityFilter})
	exprs, err := rule(conn, t)
	if err != nil {
		return err
	}
	conn.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: exprs})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("load rules: %w", err)
	}
	return nil
}
