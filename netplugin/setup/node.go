package setup

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/peregrine-dev/peregrine/internal/check"
	"github.com/peregrine-dev/peregrine/netplugin/agent"
	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/overlay"
)

// address tells whether the node has the address that other nodes reach it at, and what
// MTU containers get.
func address(cfg config.Config) check.Result {
	const probe = "this node's address"
	found := cfg.Address
	if !found.IsValid() {
		var err error
		if found, err = agent.FindAddress(); err != nil {
			return result(probe, check.Missing, fmt.Sprintf("%v: %s", err, noNetwork))
		}
	}
	if here, err := isHere(found); err != nil {
		return result(probe, check.Limited, err.Error())
	} else if !here {
		return result(probe, check.Missing, fmt.Sprintf("no interface has %s, of %s: %s", found, config.DefaultPath, noNetwork))
	}
	mtu, err := mtuOf(found, cfg.Port)
	if err == nil {
		return result(probe, check.OK, fmt.Sprintf("%s; an MTU of %d fits the tunnel", found, mtu))
	}
	if slices.ContainsFunc(cfg.Networks, func(n config.Network) bool { return n.MTU == 0 }) {
		return result(probe, check.Missing, fmt.Sprintf("%v: %s", err, noNetwork))
	}
	return result(probe, check.OK, found.String())
}

func isHere(a netip.Addr) (bool, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false, fmt.Errorf("list this node's addresses: %w", err)
	}
	return slices.ContainsFunc(all, func(b net.Addr) bool {
		prefix, ok := b.(*net.IPNet)
		return ok && prefix.IP.Equal(a.AsSlice())
	}), nil
}

func mtuOf(a netip.Addr, port int) (int, error) {
	o, err := overlay.New(overlay.Underlay{Address: a, Port: port})
	if err != nil {
		return 0, err
	}
	return o.MTU()
}

// answers tells how the agent is.
func answers(r Report) check.Result {
	if r.Node == nil {
		return result(program, check.Missing, r.Problem)
	}
	var problems []string
	for _, n := range r.Node.Networks {
		if n.Problem != "" {
			problems = append(problems, "network "+n.Name+": "+n.Problem)
		}
	}
	if s := r.Node.Source; s != nil && s.Problem != "" {
		problems = append(problems, others(r.Node))
	}
	if len(problems) > 0 {
		return result(program, check.Limited, strings.Join(problems, "; "))
	}
	return result(program, check.OK, fmt.Sprintf("runs, version %s; %s", r.Node.Version, others(r.Node)))
}

// shortcut tells whether packets leave the kernel's path, and whose don't.
func shortcut(n *agent.Report) check.Result {
	const probe = "shortcut"
	s := n.Shortcut
	switch {
	case s.Off != "":
		return result(probe, check.Limited, "off: "+s.Off)
	case s.Problem != "":
		return result(probe, check.Limited, s.Problem)
	case len(s.Slow) > 0:
		var why []string
		for _, link := range slices.Sorted(maps.Keys(s.Slow)) {
			why = append(why, s.Slow[link])
		}
		return result(probe, check.OK, "on, but not for each container: "+strings.Join(why, "; "))
	}
	return result(probe, check.OK, "on")
}
