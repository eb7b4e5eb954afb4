package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/utils"

	"github.com/peregrine-dev/peregrine/netplugin/pipeline"
)

const (
	largestVNI  = 1<<24 - 1  // 24 bits, RFC 7348 section 5
	smallestMTU = 576        // what every IPv4 host takes, RFC 791 section 3.1
	smallestIP6 = 1280       // RFC 8200 section 5
	largestMTU  = 65535 - 70 // what VXLAN over IPv6 leaves of the largest packet
	mostOffers  = 1024
	highestRate = 100_000_000
)

// fault is a value that can't be; key is as [tomlfile.Position] takes it.
type fault struct{ key, reason string }

func faultf(key, format string, args ...any) *fault {
	return &fault{key, fmt.Sprintf(format, args...)}
}

// check finds the first value that can't be.
func (c *Config) check() *fault {
	if c.Node != "" && (utils.ValidateNetworkName(c.Node) != nil || len(c.Node) > 253) {
		return faultf("node", "%q is no name, want at most 253 letters, digits, '.', '-' and '_', the first a letter or a digit", c.Node)
	}
	if a := c.Address; a != (netip.Addr{}) && (!unicast(a) || a.Zone() != "") {
		return faultf("address", "%s is no address that other nodes can reach, want a unicast address of this node without a zone", a)
	}
	if c.Port < 1 || c.Port > 65535 {
		return faultf("port", "%d is no port, want 1 to 65535", c.Port)
	}
	switch c.LogLevel {
	case "trace", "debug", "info", "warn", "error":
	default:
		return faultf("log_level", "unknown level %q, want one of trace, debug, info, warn, error", c.LogLevel)
	}
	if c.Metrics.Address != "" {
		_, port, err := net.SplitHostPort(c.Metrics.Address)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil {
			return faultf("metrics.address", "%q is no host:port, want for example localhost:9502", c.Metrics.Address)
		}
	}
	if a := c.Debug.Address; a != "" && (!isPath(a) || len(a) > 107) {
		return faultf("debug.address", "%q is no socket, want an absolute path of at most 107 bytes", a)
	}
	if bad := c.Peers.check(); bad != nil {
		return bad
	}
	for _, choice := range []struct {
		key, value string
		of         []string
	}{
		{"shortcut.mode", c.Shortcut.Mode, []string{"auto", "off"}},
		{"priority.mode", c.Priority.Mode, []string{"sync", "batch", "off"}},
		{"pipeline.mode", c.Pipeline.Mode, []string{"auto", "on", "off"}},
	} {
		if !slices.Contains(choice.of, choice.value) {
			return faultf(choice.key, "unknown mode %q, want one of %s", choice.value, strings.Join(choice.of, ", "))
		}
	}
	if r := c.Priority.HighRate; r < 1 || r > highestRate {
		return faultf("priority.high_rate", "%d packets in a second, want 1 to %d", r, highestRate)
	}
	if _, err := pipeline.ParseList(c.Pipeline.Cores); err != nil && c.Pipeline.Cores != "" {
		return faultf("pipeline.cores", "%v", err)
	}
	return c.checkNetworks()
}

// check finds the first value that can't be.
func (p *Peers) check() *fault {
	e := &p.Etcd
	for _, f := range []struct{ key, path string }{
		{"peers.file", p.File},
		{"peers.etcd.ca", e.CA},
		{"peers.etcd.cert", e.Cert},
		{"peers.etcd.key", e.Key},
		{"peers.etcd.password_file", e.PasswordFile},
	} {
		if f.path != "" && !isPath(f.path) {
			return faultf(f.key, "%q is no absolute path", f.path)
		}
	}
	switch {
	case p.File != "" && len(e.Endpoints) > 0:
		return faultf("peers.file", "the other nodes come from a file or from etcd; leave out file, or the endpoints of etcd")
	case (e.Cert == "") != (e.Key == ""):
		return faultf("peers.etcd", "cert and key go together; give both or none")
	case (e.Username == "") != (e.PasswordFile == ""):
		return faultf("peers.etcd", "username and password_file go together; give both or none")
	case !strings.HasPrefix(e.Prefix, "/") || e.Prefix == "/" || strings.HasSuffix(e.Prefix, "/") || strings.ContainsRune(e.Prefix, '\x00'):
		return faultf("peers.etcd.prefix", "%q begins no keys, want for example /falcon", e.Prefix)
	}
	for _, endpoint := range e.Endpoints {
		u, err := url.Parse(endpoint)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" {
			return faultf("peers.etcd.endpoints", "%q is no URL of etcd, want for example https://10.0.0.1:2379", endpoint)
		}
		if strings.HasPrefix(e.Endpoints[0], "https:") != (u.Scheme == "https") {
			return faultf("peers.etcd.endpoints", "%s and %s: want https for all or for none", e.Endpoints[0], endpoint)
		}
		if u.Scheme == "http" && (e.CA != "" || e.Cert != "") {
			return faultf("peers.etcd.endpoints", "%s would not use ca and cert; want https", endpoint)
		}
	}
	return nil
}

// isPath tells whether files may be at path.
func isPath(path string) bool { return filepath.IsAbs(path) && !strings.ContainsRune(path, '\x00') }

// checkNetworks finds the first network that can't be, by itself or beside the others.
func (c *Config) checkNetworks() *fault {
	if len(c.Networks) == 0 {
		return faultf("network", "there is none; leave the key out for the default's")
	}
	for i := range c.Networks {
		n := &c.Networks[i]
		table := fmt.Sprintf("network[%d].", i)
		if key, reason := n.check(); reason != "" {
			return &fault{table + key, reason}
		}
		for _, s := range n.Subnets {
			if c.Address.IsValid() && s.Contains(c.Address) {
				return faultf(table+"subnets", "%s has this node's address %s in it: tunnels would run through themselves", s, c.Address)
			}
		}
		for _, other := range c.Networks[:i] {
			switch a, b := overlap(n.Subnets, other.Subnets); {
			case n.Name == other.Name:
				return faultf(table+"name", "%q is the name of two networks", n.Name)
			case n.VNI == other.VNI:
				return faultf(table+"vni", "%d is the VNI of %s and of %s", n.VNI, other.Name, n.Name)
			case a.IsValid():
				return faultf(table+"subnets", "%s overlaps %s of network %s", a, b, other.Name)
			}
		}
	}
	return nil
}

// check finds the first value that can't be, by its key in the network; the reason is empty
// if there is none.
func (n *Network) check() (key, reason string) {
	switch {
	case utils.ValidateNetworkName(n.Name) != nil || len(n.Name) > 255: // a directory has its name
		return "name", fmt.Sprintf("%q is no name, want at most 255 letters, digits, '.', '-' and '_', the first a letter or a digit", n.Name)
	case n.VNI < 1 || n.VNI > largestVNI:
		return "vni", fmt.Sprintf("%d is no VNI, want 1 to %d", n.VNI, largestVNI)
	case len(n.Subnets) == 0:
		return "subnets", "there is none; want a prefix that no other node has, for example 10.88.1.0/24"
	case n.Offers < 0 || n.Offers > mostOffers:
		return "offers", fmt.Sprintf("%d is out of bounds, want 0 to %d", n.Offers, mostOffers)
	}
	for _, p := range n.Cluster {
		if reason := notPrefix(p); reason != "" {
			return "cluster", reason
		}
	}
	least := smallestMTU
	for i, s := range n.Subnets {
		if reason := notPrefix(s); reason != "" {
			return "subnets", reason
		}
		if !unicast(s.Addr()) || s.Bits() == 0 {
			return "subnets", fmt.Sprintf("%s has no addresses for containers", s)
		}
		// The subnet's own address, the gateway's, a container's, and IPv4's broadcast.
		if s.Bits() > s.Addr().BitLen()-2 {
			return "subnets", fmt.Sprintf("%s is too small for a gateway and a container, want at most /%d", s, s.Addr().BitLen()-2)
		}
		if a, b := overlap(n.Subnets[i:i+1], n.Subnets[:i]); a.IsValid() {
			return "subnets", fmt.Sprintf("%s overlaps %s", a, b)
		}
		if !within(s, n.Cluster) {
			return "cluster", fmt.Sprintf("%s is not in it; want what holds the subnets of all nodes, for example 10.88.0.0/16", s)
		}
		if s.Addr().Is6() {
			least = smallestIP6
		}
	}
	if n.MTU != 0 && (n.MTU < least || n.MTU > largestMTU) {
		return "mtu", fmt.Sprintf("%d is out of bounds, want %d to %d, or 0 for what fits the underlay", n.MTU, least, largestMTU)
	}
	return "", ""
}

// notPrefix says why p is not the way to write a prefix; empty if it is.
func notPrefix(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return "an empty prefix, want for example 10.88.0.0/16"
	case p.Addr().Is4In6():
		return fmt.Sprintf("%s is IPv4 written as IPv6", p)
	case p != p.Masked():
		return fmt.Sprintf("%s has bits beyond its length, want %s", p, p.Masked())
	}
	return ""
}

// unicast tells whether packets can be sent to a, or to addresses that begin like it, across
// links.
func unicast(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.Is4In6()
}

// overlap finds a prefix of as that shares addresses with one of bs; zero if there is none.
func overlap(as, bs []netip.Prefix) (a, b netip.Prefix) {
	for _, a := range as {
		for _, b := range bs {
			if a.Overlaps(b) {
				return a, b
			}
		}
	}
	return netip.Prefix{}, netip.Prefix{}
}

// within tells whether one of the prefixes holds all of s.
func within(s netip.Prefix, prefixes []netip.Prefix) bool {
	for _, p := range prefixes {
		if p.Bits() <= s.Bits() && p.Contains(s.Addr()) {
			return true
		}
	}
	return false
}
