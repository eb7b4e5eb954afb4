package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/peregrine-dev/peregrine/internal/netlab"
	"github.com/peregrine-dev/peregrine/netplugin/agent"
	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/protocol"
)

// Falcond is a node agent that runs in a network namespace.
type Falcond struct {
	*Process
	Node *netlab.NS
	Root string // FALCON_ROOT
	Env  []string

	bin, dir, file string
}

// FalconConfig is a node's configuration: its only network is of VNI 1. File, unless it is
// empty, lists the other nodes.
func FalconConfig(node string, address netip.Addr, file, network string, cluster []netip.Prefix, subnets ...netip.Prefix) config.Config {
	c := config.Default()
	c.Node, c.Address, c.Peers.File = node, address, file
	c.Networks = []config.Network{{Name: network, VNI: 1, Subnets: subnets, Cluster: cluster, Masquerade: true}}
	return c
}

// StartFalcond runs an agent of bin/falcond in the network namespace of node, from dir,
// which is on the host's disk, until its networks are ready. What it keeps until the next
// boot is in /run, as an installed one's is. The caller calls Remove.
func StartFalcond(ctx context.Context, bin, dir string, node *netlab.NS, c config.Config, env ...string) (*Falcond, error) {
	text, err := c.Write()
	if err != nil {
		return nil, err
	}
	name := filepath.Base(dir) + "-" + c.Node
	f := &Falcond{Node: node, Root: "/run/falcon-" + name, bin: bin, dir: dir, file: filepath.Join(dir, "falcon-"+c.Node+".toml"), Env: env}
	if err := os.WriteFile(f.file, text, 0o600); err != nil {
		return nil, err
	}
	return f, f.Start(ctx)
}

// Start runs the agent, again after Stop or Kill.
func (f *Falcond) Start(ctx context.Context) (err error) {
	// It becomes the agent, which so is this process's child.
	f.Process, err = start(filepath.Join(f.dir, filepath.Base(f.file)+".log"), os.Getenv("PATH"), f.Env,
		"nsenter", "--net="+f.Node.Path(), filepath.Join(f.bin, "falcond"), "--config", f.file, "--root", f.Root, "--state", filepath.Join(f.Root, "state"))
	if err != nil {
		return err
	}
	f.Name = "falcond"
	err = f.ready(ctx, func(context.Context) error {
		report, err := f.Report()
		if err != nil {
			return err
		}
		for _, n := range report.Networks {
			if n.Problem != "" {
				return errors.New(n.Problem)
			}
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, f.Kill())
	}
	return nil
}

// Report is how the agent is.
func (f *Falcond) Report() (r agent.Report, err error) {
	text, ok, err := protocol.Call(f.socket(), protocol.Encode([]string{"CNI_COMMAND=" + protocol.Report}, nil), -1)
	if err != nil {
		return r, err
	}
	if !ok {
		return r, fmt.Errorf("falcond's report: %s", text)
	}
	return r, json.Unmarshal(text, &r)
}

// Call has the agent do what its program is asked to by CNI, without executing it, for
// the interface eth0 of a container whose network namespace is ns and found at path. It
// returns what the program would print.
func (f *Falcond) Call(command, id string, conf []byte, ns *os.File, path string) (output []byte, took time.Duration, err error) {
	environ := cniEnv(command, id, path, CNIPath(f.bin))
	began := time.Now()
	request := protocol.Encode(environ, conf)
	output, ok, err := protocol.Call(f.socket(), request, int(ns.Fd()))
	took = time.Since(began)
	if err == nil && !ok {
		err = fmt.Errorf("%s by falcond: %s", command, output)
	}
	return output, took, err
}

// Plugin is what containers are attached by to the agent's networks. stock is what
// other plugins find their parts by.
func (f *Falcond) Plugin(conf []byte, stock Debian) CNI {
	return CNI{
		Node: f.Node, Program: filepath.Join(f.bin, "falcon"), Conf: conf,
		Env: append(stock.Env(), "FALCON_ROOT="+f.Root), Path: CNIPath(f.bin, stock.CNI()),
	}
}

func (f *Falcond) socket() string { return filepath.Join(f.Root, protocol.Socket) }

// Network calls a list of plugins, as a runtime on the agent's node does it.
func (f *Falcond) Network(stock Debian) libcni.CNI {
	run := &cniExec{env: append(stock.Env(), "FALCON_ROOT="+f.Root), node: f.Node}
	run.Stderr = io.Discard
	return libcni.NewCNIConfigWithCacheDir([]string{f.bin, stock.CNI()}, filepath.Join(f.dir, "cni"), run)
}

// Remove stops the agent and deletes its directory. What it has made goes with the
// node's namespace.
func (f *Falcond) Remove() error { return errors.Join(f.Stop(), os.RemoveAll(f.Root)) }

// CNIPath is CNI_PATH of directories.
func CNIPath(dirs ...string) string { return strings.Join(dirs, string(filepath.ListSeparator)) }

// Peer is a node with a part of the network of FalconConfig.
type Peer struct {
	Name    string
	Address netip.Addr
	Subnets []netip.Prefix
}

// WritePeers writes the file that tells agents of each other.
func WritePeers(file string, peers []Peer) error {
	var text strings.Builder
	for _, p := range peers {
		fmt.Fprintf(&text, "[[node]]\nname = %q\naddress = %q\n[[node.network]]\nvni = 1\nsubnets = [", p.Name, p.Address)
		for _, s := range p.Subnets {
			fmt.Fprintf(&text, "%q, ", s)
		}
		text.WriteString("]\n")
	}
	return os.WriteFile(file, []byte(text.String()), 0o600)
}
