package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/peregrine-dev/peregrine/internal/check"
	"github.com/peregrine-dev/peregrine/netplugin/config"
)

// Check probes the host for the network plugin: the kernel, the plugin's programs, the CNI
// plugins beside it, the node's address, its agent, and which network pods have. It leaves
// nothing behind.
func Check(ctx context.Context) ([]check.Result, error) {
	cfg, err := config.Load(config.DefaultPath, false)
	if err != nil {
		return []check.Result{result("configuration", check.Missing, err.Error())}, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	results := append(Kernel(), programs(filepath.Dir(self), cniBin))
	results = append(results, plugins(cniBin, debianBin)...)
	agent := ask(ctx, agentRoot())
	results = append(results, forwarding("/proc/sys/net", cfg), address(cfg), peers(cfg), answers(agent))
	if agent.Node != nil {
		results = append(results, shortcut(agent.Node))
	}
	return append(results, pods(cniConf)), nil
}

func result(probe string, s check.Status, detail string) check.Result {
	return check.Result{Plugin: Name, Probe: probe, Status: s, Detail: detail}
}

// programs looks for the agent, and for the plugin where runtimes look.
func programs(bin, cni string) check.Result {
	for _, path := range []string{filepath.Join(bin, program), filepath.Join(cni, Name)} {
		if err := executable(path); err != nil {
			return result("programs", check.Missing, fmt.Sprintf("%v: %s; run peregrine install", err, noNetwork))
		}
	}
	return result("programs", check.OK, bin+", "+filepath.Join(cni, Name))
}

// plugins looks for those of others. One that is elsewhere than ours may not be found by
// runtimes.
func plugins(ours, elsewhere string) []check.Result {
	var results []check.Result
	for _, p := range []struct {
		name, without string
		otherwise     check.Status
	}{
		{"host-local", "that is enough, it is built in", check.OK},
		{"portmap", "ports of containers can't be published", check.Limited},
		{"loopback", "containerd starts no pods, unless its CRI has use_internal_loopback", check.Limited},
	} {
		path := filepath.Join(ours, p.name)
		r := result("CNI plugin "+p.name, check.OK, path)
		if executable(path) != nil {
			r.Status, r.Detail = p.otherwise, fmt.Sprintf("is not in %s: %s", ours, p.without)
			if executable(filepath.Join(elsewhere, p.name)) == nil {
				r.Detail = fmt.Sprintf("is in %s and not in %s: %s", elsewhere, ours, p.without)
			}
		}
		results = append(results, r)
	}
	return results
}

// forwarding tells whether the kernel routes; the agent switches it on.
func forwarding(sysctls string, cfg config.Config) check.Result {
	const probe = "IP forwarding"
	files := map[bool]string{false: "ipv4/ip_forward", true: "ipv6/conf/all/forwarding"}
	var states []string
	for _, six := range []bool{false, true} {
		if !has(cfg, six) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(sysctls, files[six]))
		name := map[bool]string{false: "IPv4", true: "IPv6"}[six]
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return result(probe, check.Missing, fmt.Sprintf("the kernel has no %s, and a network has subnets of it", name))
		case err != nil:
			return result(probe, check.Limited, err.Error())
		case strings.TrimSpace(string(text)) == "0":
			states = append(states, name+" off until falcond runs")
		default:
			states = append(states, name+" on")
		}
	}
	return result(probe, check.OK, strings.Join(states, ", "))
}

// has tells whether a network has subnets of IPv6, or of IPv4.
func has(cfg config.Config, six bool) bool {
	for _, n := range cfg.Networks {
		for _, s := range n.Subnets {
			if s.Addr().Is6() == six {
				return true
			}
		}
	}
	return false
}

// peers tells where other nodes are known from.
func peers(cfg config.Config) check.Result {
	const probe = "other nodes"
	switch p := cfg.Peers; {
	case len(p.Etcd.Endpoints) > 0:
		return result(probe, check.OK, "from etcd: "+strings.Join(p.Etcd.Endpoints, ", "))
	case p.File == "":
		return result(probe, check.OK, "none: "+config.DefaultPath+" sets no peers")
	default:
		if f, err := os.Open(p.File); err != nil {
			return result(probe, check.Limited, fmt.Sprintf("%v: other nodes are not reached", err))
		} else if err := f.Close(); err != nil {
			return result(probe, check.Limited, err.Error())
		}
		return result(probe, check.OK, "from "+p.File)
	}
}

// pods tells whose network pods have.
func pods(conf string) check.Result {
	const probe = "CNI configuration"
	all, err := lists(conf)
	if err != nil {
		return result(probe, check.Limited, err.Error())
	}
	text, err := os.ReadFile(filepath.Join(conf, listName))
	switch first := before(all); {
	case errors.Is(err, fs.ErrNotExist):
		return result(probe, check.Limited, fmt.Sprintf("there is no %s: runtimes don't know the network; run peregrine install", filepath.Join(conf, listName)))
	case err != nil:
		return result(probe, check.Limited, err.Error())
	case first != "":
		return result(probe, check.Limited, fmt.Sprintf("pods have the network of %s; that of %s is used by name only: %s", first, listName, networkOf(text)))
	}
	return result(probe, check.OK, fmt.Sprintf("pods have the network %s of %s", networkOf(text), filepath.Join(conf, listName)))
}
