package node

import (
	"context"
	"encoding/json"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

// Container is a network namespace that can be attached, once for each interface.
type Container struct {
	ID     string
	NS     *netnstest.NS
	IfName string // eth0 unless it is changed
	// Result is of the last ADD.
	Result *types100.Result
	// Args and Capabilities are what the runtime gives: CNI_ARGS and runtimeConfig.
	Args         [][2]string
	Capabilities map[string]any
}

// Container makes an empty namespace for a container.
func (n *Node) Container(id string) *Container {
	n.t.Helper()
	return &Container{ID: id, NS: netnstest.New(n.t), IfName: "eth0"}
}

// Interface is another interface of the same container.
func (c *Container) Interface(name string) *Container {
	return &Container{ID: c.ID, NS: c.NS, IfName: name}
}

// Address is the container's i-th address, as "10.88.1.2". ADD must have succeeded.
func (c *Container) Address(i int) string { return c.Result.IPs[i].Address.IP.String() }

func (c *Container) runtime() *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: c.ID, NetNS: c.NS.Path(), IfName: c.IfName, Args: c.Args, CapabilityArgs: c.Capabilities}
}

// Plugin is a plugin's part of a list, as JSON.
type Plugin map[string]any

// Network is falcon's part, for a network of the node. Its addresses are host-local's, in
// the node's directory.
func Network(name string) Plugin {
	return Plugin{"type": "falcon", "network": name, "capabilities": map[string]bool{"mac": true, "ips": true}}
}

// List is a network configuration list of a version of CNI with the name "list". Plugins
// without an ipam section get host-local's, if they are falcon.
func (n *Node) List(cniVersion string, plugins ...Plugin) *libcni.NetworkConfigList {
	n.t.Helper()
	return n.NamedList("list", cniVersion, plugins...)
}

// NamedList is List with another name.
func (n *Node) NamedList(name, cniVersion string, plugins ...Plugin) *libcni.NetworkConfigList {
	n.t.Helper()
	for _, p := range plugins {
		if _, ok := p["ipam"]; p["type"] == "falcon" && !ok {
			p["ipam"] = map[string]any{"type": "host-local", "dataDir": n.IPAM()}
		}
	}
	text, err := json.Marshal(map[string]any{"cniVersion": cniVersion, "name": name, "plugins": plugins})
	if err != nil {
		n.t.Fatal(err)
	}
	list, err := libcni.ConfListFromBytes(text)
	if err != nil {
		n.t.Fatal(err)
	}
	return list
}

// CNI is libcni for the node: plugins are executed inside its namespace, found beside
// falcon and among the stock ones. Results are cached in the node's directory.
func (n *Node) CNI() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(n.Path(), filepath.Join(n.Dir, "cache"), &inside{
		DefaultExec: &invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: discard{}}}, n: n,
	})
}

// Path is CNI_PATH.
func (n *Node) Path() []string { return []string{n.Bin, filepath.Join(n.Stock, "usr/lib/cni")} }

// Add attaches a container and keeps the result in it.
func (n *Node) Add(ctx context.Context, list *libcni.NetworkConfigList, c *Container) error {
	got, err := n.CNI().AddNetworkList(ctx, list, c.runtime())
	if err != nil {
		return err
	}
	c.Result, err = types100.NewResultFromResult(got)
	return err
}

// MustAdd is Add that succeeds.
func (n *Node) MustAdd(list *libcni.NetworkConfigList, c *Container) *types100.Result {
	n.t.Helper()
	if err := n.Add(n.t.Context(), list, c); err != nil {
		n.t.Fatalf("ADD of %s: %v", c.ID, err)
	}
	return c.Result
}

// Del detaches a container.
func (n *Node) Del(ctx context.Context, list *libcni.NetworkConfigList, c *Container) error {
	return n.CNI().DelNetworkList(ctx, list, c.runtime())
}

// MustDel is Del that succeeds.
func (n *Node) MustDel(list *libcni.NetworkConfigList, containers ...*Container) {
	n.t.Helper()
	for _, c := range containers {
		if err := n.Del(n.t.Context(), list, c); err != nil {
			n.t.Fatalf("DEL of %s: %v", c.ID, err)
		}
	}
}

// Check has the container's attachment checked against the result in libcni's cache.
func (n *Node) Check(ctx context.Context, list *libcni.NetworkConfigList, c *Container) error {
	return n.CNI().CheckNetworkList(ctx, list, c.runtime())
}

// GC has all attachments of the list taken away but those of the containers.
func (n *Node) GC(ctx context.Context, list *libcni.NetworkConfigList, valid ...*Container) error {
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}
	for _, c := range valid {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: c.ID, IfName: c.IfName})
	}
	return n.CNI().GCNetworkList(ctx, list, args)
}

// Status asks whether containers can be attached.
func (n *Node) Status(ctx context.Context, list *libcni.NetworkConfigList) error {
	return n.CNI().GetStatusNetworkList(ctx, list)
}

// inside executes plugins in a node's namespace.
type inside struct {
	*invoke.DefaultExec
	n *Node
}

// ExecPlugin implements invoke.Exec.
func (i *inside) ExecPlugin(ctx context.Context, plugin string, stdin []byte, environ []string) (out []byte, err error) {
	environ = append(append(environ, i.n.stockEnv()...), i.n.env()...)
	i.n.NS.Do(func() { out, err = i.DefaultExec.ExecPlugin(ctx, plugin, stdin, environ) })
	return out, err
}

// Decode implements invoke.Exec.
func (i *inside) Decode(text []byte) (version.PluginInfo, error) { return i.DefaultExec.Decode(text) }

// discard takes what plugins write to standard error; an error has it besides.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
