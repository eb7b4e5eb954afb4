// Package config reads the configuration of FALCON's node agent: defaults, then the file,
// then a check of the whole. Without a file a node has one network and is by itself, as in
// [Default].
package config

import (
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"github.com/peregrine-dev/peregrine/internal/tomlfile"
)

// DefaultPath is where the configuration is when nothing else is said. It need not
// exist.
const DefaultPath = "/etc/falcon/config.toml"

// Config is the whole configuration. Nodes that share networks agree on Port and on each
// network's name, VNI and cluster, and differ in the rest.
type Config struct {
	// Node is what other nodes know this one by; empty is the host's name.
	Node string `toml:"node" comment:"What other nodes know this one by; empty: the host's name."`
	// Address is the underlay's address that other nodes reach this one at. The zero
	// address is to be found at start.
	Address netip.Addr `toml:"address" comment:"The address that other nodes reach this one at; empty: the first of the interface with the default route."`
	// Port is the UDP port of VXLAN.
	Port int `toml:"port" comment:"The UDP port of VXLAN, the same on every node."`
	// LogLevel is one of containerd's.
	LogLevel string `toml:"log_level" comment:"trace, debug, info, warn or error."`

	Peers    Peers    `toml:"peers"`
	Shortcut Shortcut `toml:"shortcut"`
	Priority Priority `toml:"priority"`
	Pipeline Pipeline `toml:"pipeline"`
	Metrics  Metrics  `toml:"metrics"`
	Debug    Debug    `toml:"debug"`

	// Networks are those that this node takes part in. A file that has any has all.
	Networks []Network `toml:"network"`
}

// Network is this node's part of a network.
type Network struct {
	// Name is what CNI's configuration calls the network.
	Name string `toml:"name" comment:"The name in CNI's configuration."`
	// VNI tells networks apart on the wire, RFC 7348 section 5.
	VNI uint32 `toml:"vni" comment:"The number of the network on the wire, 1 to 16777215, the same on every node."`
	// Subnets are what this node's containers get addresses of. No other network or node
	// has them.
	Subnets []netip.Prefix `toml:"subnets" comment:"What containers on this node have addresses of, IPv4 or IPv6 or both. No other node may have them."`
	// Cluster holds the subnets of all nodes.
	Cluster []netip.Prefix `toml:"cluster" comment:"What the subnets of all nodes are in."`
	// Masquerade gives what leaves the cluster this node's address.
	Masquerade bool `toml:"masquerade" comment:"Give what containers send to outside of cluster the address of this node."`
	// MTU is the containers', in bytes; 0 is the underlay's less VXLAN's headers.
	MTU int `toml:"mtu" comment:"The containers' MTU in bytes; 0: what fits the underlay."`
	// Offers is how many network namespaces are kept ready for FlashCube.
	Offers int `toml:"offers" comment:"Network namespaces that are kept ready for FlashCube; 0: none."`
}

// Peers is where the other nodes are known from: a file, or etcd, or neither on a node by
// itself.
type Peers struct {
	File string `toml:"file" comment:"A file that lists the other nodes; empty: none."`
	Etcd Etcd   `toml:"etcd"`
}

// Etcd is a store that nodes tell each other through.
type Etcd struct {
	Endpoints    []string `toml:"endpoints" comment:"URLs of etcd, such as https://10.0.0.1:2379; none: etcd is not used."`
	Prefix       string   `toml:"prefix" comment:"What keys begin with."`
	CA           string   `toml:"ca" comment:"A PEM file of what has signed etcd's certificate; empty: the host's authorities."`
	Cert         string   `toml:"cert" comment:"A PEM file with this node's certificate; empty: none."`
	Key          string   `toml:"key" comment:"A PEM file with the certificate's key."`
	Username     string   `toml:"username" comment:"The user to log in as; empty: none."`
	PasswordFile string   `toml:"password_file" comment:"A file with the user's password."`
}

// Shortcut is whether packets may leave the kernel's path, where that makes no difference.
type Shortcut struct {
	Mode string `toml:"mode" comment:"auto: flows that nothing else needs to see take a short way to and from containers; off: none does."`
}

// Priority is how packets of class high overtake others.
type Priority struct {
	Mode string `toml:"mode" comment:"sync: packets of class high are handled at once, others after them; batch: both wait in queues, high's goes first; off: classes change nothing."`
	// TrustDSCP takes the class from packets that no rule of a container matches.
	TrustDSCP bool `toml:"trust_dscp" comment:"Take the class from the packet's DSCP where no rule of the container matches."`
	// HighRate bounds what overtakes, on each core.
	HighRate int `toml:"high_rate" comment:"Packets of class high in a second, on each core, that overtake others; those beyond wait with the others."`
}

// Pipeline is whether the stages of receiving a packet are spread over cores.
type Pipeline struct {
	Mode string `toml:"mode" comment:"auto: spread the stages of receiving over cores where there are enough and it pays; on: where there are enough; off: never."`
	// Cores are those to use; none is all.
	Cores string `toml:"cores" comment:"The cores to use, as 0-3,8; empty: all that the agent may use."`
}

// Metrics serves Prometheus metrics.
type Metrics struct {
	Address string `toml:"address" comment:"host:port of Prometheus metrics at /metrics; empty: none."`
}

// Debug serves pprof.
type Debug struct {
	Address string `toml:"address" comment:"A unix socket for pprof; empty: none."`
}

// Default is the configuration without a file: one network on one node.
func Default() Config {
	return Config{
		Port:     4789, // IANA's for VXLAN
		LogLevel: "info",
		Peers:    Peers{Etcd: Etcd{Prefix: "/falcon"}},
		Shortcut: Shortcut{Mode: "auto"},
		Priority: Priority{Mode: "sync", HighRate: 100_000},
		Pipeline: Pipeline{Mode: "auto"},
		Networks: []Network{{
			Name:       "falcon",
			VNI:        1,
			Subnets:    []netip.Prefix{netip.MustParsePrefix("10.88.0.0/24")},
			Cluster:    []netip.Prefix{netip.MustParsePrefix("10.88.0.0/16")},
			Masquerade: true,
		}},
	}
}

// Load reads the file at path over the defaults. A missing file is an error only if
// mustExist. Errors name file, line and column, and what is allowed there; they are
// ErrInvalidArgument.
func Load(path string, mustExist bool) (Config, error) {
	c := Default()
	err := tomlfile.Load(path, mustExist, c.parse)
	return c, err
}

// parse reads text over c. The error starts with line and column.
func (c *Config) parse(text []byte) error {
	// A network of the file must not inherit from the one by default.
	networks := c.Networks
	c.Networks = nil
	if err := tomlfile.Decode(text, c); err != nil {
		return err
	}
	if c.Networks == nil {
		c.Networks = networks
	}
	if bad := c.check(); bad != nil {
		row, col := tomlfile.Position(text, bad.key)
		return fmt.Errorf("%d:%d: %s: %w", row, col, bad.reason, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Validate checks what defaults, file and flags amount to; ErrInvalidArgument, naming the
// key.
func (c *Config) Validate() error {
	if bad := c.check(); bad != nil {
		return fmt.Errorf("%s: %s: %w", bad.key, bad.reason, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Write prints c as a file that Load reads, with a comment on each key.
func (c Config) Write() ([]byte, error) { return toml.Marshal(c) }
