// Package config reads plasmad's configuration: defaults, then the file, then a check of the
// whole. Without a file a node is a cluster of its own.
package config

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"github.com/peregrine-dev/peregrine/internal/tomlfile"
)

// DefaultPath is where the configuration is when nothing else is said. It need not exist.
const DefaultPath = "/etc/plasma/config.toml"

// Config is the whole configuration. Nodes of a cluster agree on Cluster and on where etcd is.
type Config struct {
	Node       string   `toml:"node" comment:"What other nodes know this one by; empty: the host's name."`
	Zone       string   `toml:"zone" comment:"What fails together with this node: a rack, a room; empty: nothing."`
	Cluster    string   `toml:"cluster" comment:"The cluster's name, the same on every node."`
	Address    string   `toml:"address" comment:"host:port that other nodes reach this one at, with mutual TLS; empty: the node is by itself."`
	LogLevel   string   `toml:"log_level" comment:"trace, debug, info, warn or error."`
	Containerd string   `toml:"containerd" comment:"containerd's socket."`
	Namespace  string   `toml:"namespace" comment:"containerd's namespace for the containers of services."`
	Period     Duration `toml:"period" comment:"How often is planned where a policy says nothing; what servers use is measured twice as often."`

	TLS     TLS     `toml:"tls"`
	Etcd    Etcd    `toml:"etcd"`
	Member  Member  `toml:"member"`
	CNI     CNI     `toml:"cni"`
	Falcon  Falcon  `toml:"falcon"`
	Web     Web     `toml:"web"`
	Metrics Metrics `toml:"metrics"`
	Debug   Debug   `toml:"debug"`
	Traces  Traces  `toml:"traces"`
}

// TLS is how nodes know each other. It is needed as soon as there is an address.
type TLS struct {
	CA   string `toml:"ca" comment:"A PEM file of what has signed the nodes' certificates."`
	Cert string `toml:"cert" comment:"A PEM file with this node's certificate, for its address, as server and client."`
	Key  string `toml:"key" comment:"A PEM file with the certificate's key."`
}

// Etcd is the user's cluster; without endpoints plasmad has a member of its own.
type Etcd struct {
	Endpoints    []string `toml:"endpoints" comment:"URLs of etcd; none: a member of etcd runs within plasmad, see [member]."`
	CA           string   `toml:"ca" comment:"A PEM file of what has signed etcd's certificate; empty: the host's authorities."`
	Cert         string   `toml:"cert" comment:"A PEM file with this node's certificate; empty: none."`
	Key          string   `toml:"key" comment:"A PEM file with the certificate's key."`
	Username     string   `toml:"username" comment:"The user to log in as; empty: none."`
	PasswordFile string   `toml:"password_file" comment:"A file with the user's password."`
}

// Member is the member of etcd within plasmad.
type Member struct {
	Peer    string   `toml:"peer" comment:"host:port that the other members reach this one at, with [tls]; empty: it is the only one."`
	Members []string `toml:"members" comment:"All members at first, as node=host:port, the same on every node."`
}

// CNI is where networks are configured.
type CNI struct {
	Conf string   `toml:"conf" comment:"The directory of CNI's configuration."`
	Bin  []string `toml:"bin" comment:"The directories of CNI's plugins."`
}

// Falcon is the network plugin's agent, if there is one.
type Falcon struct {
	Socket string `toml:"socket" comment:"falcond's socket: flows are asked of it, and classes of reserved containers set."`
}

// Web is the page that shows the cluster.
type Web struct {
	Address string `toml:"address" comment:"host:port on loopback of the page; empty: none."`
}

// Metrics serves Prometheus metrics.
type Metrics struct {
	Address string `toml:"address" comment:"host:port of Prometheus metrics at /metrics; empty: none."`
}

// Debug serves pprof.
type Debug struct {
	Address string `toml:"address" comment:"A unix socket for pprof; empty: none."`
}

// Traces sends spans.
type Traces struct {
	Endpoint string `toml:"endpoint" comment:"host:port of an OpenTelemetry collector, OTLP over gRPC; empty: none."`
}

// Duration is written as 10s.
type Duration time.Duration

// UnmarshalText reads a time that is more than none.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v <= 0 {
		return fmt.Errorf("%q is no time: want one such as 10s", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes a time.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Default is the configuration without a file.
func Default() Config {
	return Config{
		Cluster:    "plasma",
		LogLevel:   "info",
		Containerd: "/run/containerd/containerd.sock",
		Namespace:  "plasma",
		Period:     Duration(2 * time.Second),
		CNI:        CNI{Conf: "/etc/cni/net.d", Bin: []string{"/opt/cni/bin", "/usr/lib/cni"}},
		Falcon:     Falcon{Socket: "/run/falcon/cni.sock"},
		Web:        Web{Address: "127.0.0.1:7780"},
	}
}

// Load reads the file at path over the defaults. A missing file is an error only if mustExist.
// Errors name file, line and column, and what is allowed there; they are ErrInvalidArgument.
func Load(path string, mustExist bool) (Config, error) {
	c := Default()
	err := tomlfile.Load(path, mustExist, c.parse)
	return c, err
}

// parse reads text over c. The error starts with line and column.
func (c *Config) parse(text []byte) error {
	if err := tomlfile.Decode(text, c); err != nil {
		return err
	}
	if bad := c.check(); bad != nil {
		row, col := tomlfile.Position(text, bad.key)
		return fmt.Errorf("%d:%d: %s: %w", row, col, bad.reason, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Validate checks what defaults, file and flags amount to; ErrInvalidArgument, naming the key.
func (c *Config) Validate() error {
	if bad := c.check(); bad != nil {
		return fmt.Errorf("%s: %s: %w", bad.key, bad.reason, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Write prints c as a file that Load reads, with a comment on each key.
func (c Config) Write() ([]byte, error) { return toml.Marshal(c) }

type mistake struct{ key, reason string }

var name = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?$`)

func (c *Config) check() *mistake {
	for _, n := range []struct{ key, value string }{{"node", c.Node}, {"cluster", c.Cluster}, {"namespace", c.Namespace}} {
		if (n.value != "" || n.key != "node") && !name.MatchString(n.value) {
			return &mistake{n.key, fmt.Sprintf("%q is no name: want letters, digits, '-', '_' and '.', 63 at most", n.value)}
		}
	}
	for _, a := range []struct{ key, value string }{
		{"address", c.Address},
		{"member.peer", c.Member.Peer},
		{"web.address", c.Web.Address},
		{"metrics.address", c.Metrics.Address},
		{"traces.endpoint", c.Traces.Endpoint},
	} {
		if a.value == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(a.value); err != nil {
			return &mistake{a.key, fmt.Sprintf("%q is not host:port", a.value)}
		}
	}
	if (c.Address != "" || c.Member.Peer != "") && (c.TLS.CA == "" || c.TLS.Cert == "" || c.TLS.Key == "") {
		return &mistake{"tls", "nodes know each other by certificates: set ca, cert and key"}
	}
	if len(c.Etcd.Endpoints) > 0 && c.Member.Peer != "" {
		return &mistake{"member.peer", "etcd.endpoints name a cluster: plasmad has no member of its own then"}
	}
	if c.Member.Peer != "" && c.Address == "" {
		return &mistake{"address", "other members are on other nodes, which have to reach this one"}
	}
	if c.Web.Address != "" && !onLoopback(c.Web.Address) {
		return &mistake{"web.address", "the page has no log-in: it is for loopback, such as 127.0.0.1:7780"}
	}
	return nil
}

func onLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
