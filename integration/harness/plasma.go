package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/peregrine-dev/peregrine/integration/images"
	"github.com/peregrine-dev/peregrine/internal/netlab"
	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/config"
	"github.com/peregrine-dev/peregrine/plasma/service"
	"github.com/peregrine-dev/peregrine/plasma/status"
)

// Plasma is a cluster of plasmads, each with a containerd of its own, in network namespaces that
// a switch connects.
type Plasma struct {
	Nodes []*PlasmaNode

	cache  string
	dir    *Dir
	bridge *netlab.NS
}

// PlasmaNode is one of them. Its process is plasmad.
type PlasmaNode struct {
	*Process
	NS         *netlab.NS
	Containerd *Containerd
	Config     config.Config
	// Root and Run are plasmad's directories.
	Root, Run string
	// Env is what plasmad's environment has more.
	Env []string

	bin, file, log string
}

// StartPlasma starts a cluster of n nodes with what is in bin: n1, n2 and so on, each with a
// member of etcd within plasmad. change, if not nil, alters a node's configuration before it
// starts; shims are those of other runtimes. The caller calls Remove.
func StartPlasma(ctx context.Context, cache, bin string, n int, change func(*config.Config), shims ...Shim) (*Plasma, error) {
	p, err := NewPlasma(cache)
	if err != nil {
		return nil, err
	}
	if err := p.Start(ctx, bin, n, change, shims...); err != nil {
		return nil, errors.Join(err, p.Remove(ctx))
	}
	return p, nil
}

// NewPlasma is StartPlasma without nodes: Start starts them. The caller calls Remove.
func NewPlasma(cache string) (_ *Plasma, err error) {
	p := &Plasma{cache: cache}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Remove(context.Background()))
		}
	}()
	if p.dir, err = NewDir(cache); err != nil {
		return nil, err
	}
	if p.bridge, err = netlab.New(); err != nil {
		return nil, err
	}
	return p, p.bridge.Bridge("br0", 1500)
}

// Plug connects another namespace, by its eth0, to the switch that connects the nodes, and gives
// it an address of 192.0.2.0/24.
func (p *Plasma) Plug(ns *netlab.NS, last int) error {
	port := fmt.Sprintf("p%d", last)
	return errors.Join(
		netlab.Wire(netlab.End{NS: ns, Link: "eth0"}, netlab.End{NS: p.bridge, Link: port}, 1500),
		p.bridge.Port("br0", port),
		ns.Address("eth0", nodeAddress(last)+"/24"),
	)
}

// Start starts the nodes: see StartPlasma.
func (p *Plasma) Start(ctx context.Context, bin string, n int, change func(*config.Config), shims ...Shim) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	authority, err := newAuthority(p.dir.Path)
	if err != nil {
		return err
	}
	var members []string
	for i := 1; i <= n; i++ {
		members = append(members, fmt.Sprintf("n%d=%s:7701", i, nodeAddress(i)))
	}
	for i := 1; i <= n; i++ {
		if err := p.add(ctx, bin, i, members, authority, change, shims); err != nil {
			return err
		}
	}
	return p.StartNodes(ctx)
}

// StartNodes starts all plasmads at once, again after all were stopped or killed: members of etcd
// wait for each other.
func (p *Plasma) StartNodes(ctx context.Context) error {
	for _, node := range p.Nodes {
		if err := node.launch(); err != nil {
			return err
		}
	}
	for _, node := range p.Nodes {
		if err := node.await(ctx); err != nil {
			return err
		}
	}
	return nil
}

func nodeAddress(i int) string { return fmt.Sprintf("192.0.2.%d", i) }

// add makes a node with its containerd.
func (p *Plasma) add(ctx context.Context, bin string, i int, members []string, a *authority, change func(*config.Config), shims []Shim) (err error) {
	name, address := fmt.Sprintf("n%d", i), nodeAddress(i)
	dir := filepath.Join(p.dir.Path, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	id := filepath.Base(p.dir.Path) + "-" + name
	node := &PlasmaNode{Root: filepath.Join(dir, "plasma"), Run: "/run/plasma-" + id, bin: bin, file: filepath.Join(dir, "plasma.toml"), log: filepath.Join(dir, "plasmad.log")}
	p.Nodes = append(p.Nodes, node)
	if node.NS, err = netlab.New(); err != nil {
		return err
	}
	if err := p.Plug(node.NS, i); err != nil {
		return err
	}
	if node.Containerd, err = NewContainerd(p.cache, "2.4", filepath.Join(dir, "c"), nil, shims...); err != nil {
		return err
	}
	node.Containerd.NS, node.Containerd.Namespace = node.NS, "plasma-"+id
	if err := node.Containerd.Start(ctx); err != nil {
		return err
	}
	c := config.Default()
	c.Node, c.Containerd, c.Namespace = name, node.Containerd.Address, node.Containerd.Namespace
	c.Web.Address = ""
	if len(members) > 1 {
		c.Address, c.Member.Peer, c.Member.Members = address+":7700", address+":7701", members
		if c.TLS.CA, c.TLS.Cert, c.TLS.Key, err = a.certify(dir, address); err != nil {
			return err
		}
	}
	if change != nil {
		change(&c)
	}
	node.Config = c
	text, err := c.Write()
	if err != nil {
		return err
	}
	return os.WriteFile(node.file, text, 0o600)
}

// Start starts plasmad, again after Stop or Kill, and waits until it answers.
func (n *PlasmaNode) Start(ctx context.Context) error {
	if err := n.launch(); err != nil {
		return err
	}
	return n.await(ctx)
}

func (n *PlasmaNode) launch() (err error) {
	n.Process, err = start(n.log, os.Getenv("PATH"), n.Env,
		"nsenter", "--net="+n.NS.Path(), "--", filepath.Join(n.bin, "plasmad"), "--config", n.file, "--run", n.Run, "--root", n.Root)
	if err != nil {
		return err
	}
	n.Name = "plasmad"
	return nil
}

func (n *PlasmaNode) await(ctx context.Context) error {
	return n.ready(ctx, func(ctx context.Context) error {
		_, err := n.Status(ctx)
		return err
	})
}

// Tail is the end of plasmad's log.
func (n *PlasmaNode) Tail() string { return n.tail() }

// Socket is where plasmad answers.
func (n *PlasmaNode) Socket() string { return filepath.Join(n.Run, "plasmad.sock") }

// Cluster gives the client of the node's plasmad; the caller closes the connection.
func (n *PlasmaNode) Cluster() (api.ClusterClient, *grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix:"+n.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", n.Socket())
		}))
	if err != nil {
		return nil, nil, err
	}
	return api.NewClusterClient(conn), conn, nil
}

// Do makes a call.
func (n *PlasmaNode) Do(ctx context.Context, call func(context.Context, api.ClusterClient) error) error {
	c, conn, err := n.Cluster()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return call(ctx, c)
}

// Status asks how the cluster is.
func (n *PlasmaNode) Status(ctx context.Context) (*status.Cluster, error) {
	s := new(status.Cluster)
	err := n.Do(ctx, func(ctx context.Context, c api.ClusterClient) error {
		r, err := c.Status(ctx, &api.StatusRequest{})
		if err != nil {
			return err
		}
		return json.Unmarshal(r.GetStatus(), s)
	})
	return s, err
}

// Apply applies a service's file.
func (n *PlasmaNode) Apply(ctx context.Context, b *service.Bundle) error {
	return n.Do(ctx, func(ctx context.Context, c api.ClusterClient) error {
		_, err := c.Apply(ctx, &api.ApplyRequest{Service: b.Service, Policy: b.Policy, Manifest: b.Manifest})
		return err
	})
}

// Call calls a function of an actor.
func (n *PlasmaNode) Call(ctx context.Context, service, kind, key, function, body string) (answer string, err error) {
	err = n.Do(ctx, func(ctx context.Context, c api.ClusterClient) error {
		r, err := c.Call(ctx, &api.CallRequest{Service: service, To: &api.Actor{Type: kind, Key: key}, Function: function, Body: []byte(body)})
		if err == nil && r.GetError() != "" {
			err = errors.New(r.GetError())
		}
		answer = string(r.GetBody())
		return err
	})
	return answer, err
}

// Import gives an image to every node's containerd.
func (p *Plasma) Import(ctx context.Context, image images.Image) error {
	for _, n := range p.Nodes {
		if _, err := n.Containerd.Ctr(ctx, "image", "import", image.Archive); err != nil {
			return err
		}
	}
	return nil
}

// Cut takes a node's cable out: it reaches nobody. Mend puts it back.
func (p *Plasma) Cut(n *PlasmaNode) error { return p.bridge.Down(p.port(n)) }

// Mend ends Cut.
func (p *Plasma) Mend(n *PlasmaNode) error { return p.bridge.Up(p.port(n)) }

// Part has nodes not reach each other, or do so again; they still reach the others.
func (p *Plasma) Part(parted bool, nodes ...*PlasmaNode) error {
	h, err := p.bridge.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	for _, n := range nodes {
		link, err := h.LinkByName(p.port(n))
		if err != nil {
			return err
		}
		if err := h.LinkSetIsolated(link, parted); err != nil {
			return fmt.Errorf("isolate %s: %w", n.Config.Node, err)
		}
	}
	return nil
}

func (p *Plasma) port(n *PlasmaNode) string { return fmt.Sprintf("p%d", slices.Index(p.Nodes, n)+1) }

// Dir is the cluster's directory on the host's disk; callers may keep files of theirs in it.
func (p *Plasma) Dir() string { return p.dir.Path }

// end stops plasmad, if it runs, also one that is paused. One that hangs is killed: it may wait for
// other members of etcd that have ended.
func (n *PlasmaNode) end() error {
	if n.Process == nil {
		return nil
	}
	if err := errors.Join(n.Signal(unix.SIGCONT), n.Signal(unix.SIGTERM)); err != nil {
		return err
	}
	select {
	case <-n.Ended():
		return nil
	case <-time.After(4 * time.Second):
		return n.Kill()
	}
}

// Remove ends it all, also after ctx is done.
func (p *Plasma) Remove(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var errs error
	// One that still runs would start containers again, and one that is killed while it starts one
	// leaves containerd with half of it.
	stopped := make(chan error, len(p.Nodes))
	for _, n := range p.Nodes {
		go func() { stopped <- n.end() }()
	}
	for range p.Nodes {
		errs = errors.Join(errs, <-stopped)
	}
	for _, n := range p.Nodes {
		if n.Containerd != nil && n.Containerd.Process != nil {
			errs = errors.Join(errs, n.Containerd.Remove(ctx))
		}
		errs = errors.Join(errs, os.RemoveAll(n.Run))
		if n.NS != nil {
			errs = errors.Join(errs, n.NS.Close())
		}
	}
	if p.bridge != nil {
		errs = errors.Join(errs, p.bridge.Close())
	}
	if p.dir != nil {
		errs = errors.Join(errs, p.dir.Remove())
	}
	return errs
}
