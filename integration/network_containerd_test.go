package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/network/node"
	"github.com/peregrine-dev/peregrine/netplugin/agent"
	"github.com/peregrine-dev/peregrine/shim/network"
)

// ctrNode is a node of the network plugin, on which ctr starts containers. The containers'
// processes are where all are; ctr, which attaches them, is on the node.
type ctrNode struct {
	*node.Node
	c       *harness.Containerd
	runtime string
	image   string
}

// ctrNodes is count nodes on a switch that know each other, and one containerd.
func ctrNodes(t *testing.T, c *harness.Containerd, runtime, image string, count int, change func(*node.Node)) []*ctrNode {
	t.Helper()
	var all []*ctrNode
	var nodes []*node.Node
	var peers strings.Builder
	for i := 1; i <= count; i++ {
		n := node.New(t, i)
		if change != nil {
			change(n)
		}
		fmt.Fprintf(&peers, "[[node]]\nname = %q\naddress = %q\n[[node.network]]\nvni = 1\nsubnets = [", n.Config.Node, n.Config.Address)
		for _, s := range n.Config.Networks[0].Subnets {
			fmt.Fprintf(&peers, "%q, ", s)
		}
		peers.WriteString("]\n")
		all, nodes = append(all, &ctrNode{n, c, runtime, image}), append(nodes, n)
	}
	node.Join(nodes...)
	for _, n := range nodes {
		n.Config.Peers.File = filepath.Join(n.Dir, "peers.toml")
		if err := os.WriteFile(n.Config.Peers.File, []byte(peers.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		n.Start()
	}
	return all
}

// conf has a network configuration list written down that ctr is to find.
func (n *ctrNode) conf(t *testing.T, ipam map[string]any) {
	t.Helper()
	plugin := map[string]any{"type": "falcon", "network": "falcon"}
	if ipam != nil {
		plugin["ipam"] = ipam
	}
	text, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "falcon", "plugins": []any{plugin}})
	if err == nil {
		err = os.MkdirAll(filepath.Join(n.Dir, "net.d"), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(n.Dir, "net.d/10-falcon.conflist"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// places puts what ctr looks for where it does: its paths can't be changed. The mounts are
// ctr's alone and end with it.
const places = `
mount -t tmpfs none /etc
mount -t tmpfs none /opt
mount -t tmpfs none /var/lib
mkdir /etc/cni /opt/cni /var/lib/cni
ln -s "$NODE/net.d" /etc/cni/net.d
ln -s "$NODE_BIN" /opt/cni/bin
mount --bind "$NODE/cache" /var/lib/cni
exec "$@"
`

// command is a run of ctr on the node.
func (n *ctrNode) command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	plain, err := n.c.CtrCommand(ctx, args...)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(n.Dir, "cache"), 0o700); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "nsenter", slices.Concat(
		[]string{"--net=" + n.NS.Path(), "unshare", "--mount", "sh", "-ec", places, "sh"}, plain.Args,
	)...)
	bin, err := filepath.Abs(n.Bin)
	if err != nil {
		return nil, err
	}
	cmd.Env = append(plain.Env, "NODE="+n.Dir, "NODE_BIN="+bin,
		"FALCON_ROOT="+n.Root(), "FALCON_CONFIG="+filepath.Join(n.Dir, "config.toml"))
	cmd.SysProcAttr = plain.SysProcAttr
	return cmd, nil
}

// ctr runs ctr and returns what it prints.
func (n *ctrNode) ctr(t *testing.T, args ...string) string {
	t.Helper()
	cmd, err := n.command(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	var out, diagnostics bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diagnostics
	if err := cmd.Run(); err != nil {
		t.Fatalf("ctr %q: %v\n%s", args, err, diagnostics.Bytes())
	}
	noErrors(t, diagnostics.String())
	return out.String()
}

// noErrors fails the test when ctr tells of an error: it does of a network that it couldn't
// remove, and succeeds.
func noErrors(t *testing.T, diagnostics string) {
	t.Helper()
	if strings.Contains(diagnostics, "level=error") {
		t.Errorf("ctr: %s", diagnostics)
	}
}

// run is the beginning of a ctr command line that runs a container on the network.
func (n *ctrNode) run(flags ...string) []string {
	return append([]string{"run", "--cni", "--runtime", n.runtime}, flags...)
}

// attached waits until a container is attached.
func (n *ctrNode) attached(t *testing.T, id string) (e agent.EndpointReport) {
	t.Helper()
	n.Eventually(func() error {
		r, err := n.Report()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(r.Endpoints, func(e agent.EndpointReport) bool {
			return e.Container == n.c.Namespace+"-"+id && len(e.Addresses) > 0
		})
		if i < 0 {
			return fmt.Errorf("%s is not attached: %+v", id, r.Endpoints)
		}
		e = r.Endpoints[i]
		return nil
	})
	return e
}

// hello is what the server serves, of the image.
const hello = "/usr/share/peregrine/hello"

// server is a program that serves HTTP.
var server = []string{"httpd", "-f", "-p", "8080", "-h", filepath.Dir(hello)}

// get is a program that asks a server at an address: again, for servers take a moment.
// (Debian's static busybox dies of wget, which looks for the name of a service.)
func get(address netip.Prefix) []string {
	return []string{"sh", "-c", fmt.Sprintf(
		`i=0; while [ $((i+=1)) -lt 300 ]; do printf 'GET /%s HTTP/1.0\r\n\r\n' | nc -w 5 %s 8080 && exit; sleep 0.1; done; exit 1`,
		filepath.Base(hello), address.Addr())}
}

// wantHello fails the test unless the server has answered.
func wantHello(t *testing.T, who, answer string) {
	t.Helper()
	if !strings.HasPrefix(answer, "HTTP/1.") || !strings.HasSuffix(answer, "\r\n\r\nhello\n") {
		t.Errorf("%s: the answer is %q", who, answer)
	}
}

// TestNetworkContainerd has containers of the real ctr on two nodes talk to each other.
func TestNetworkContainerd(t *testing.T) {
	for _, version := range harness.Versions {
		t.Run(version, func(t *testing.T) {
			b := setUpBundle(t, version)
			image := busybox(t)
			ctr(t, b.Containerd, "image", "import", image.Archive)
			runtimes := []string{"io.containerd.runc.v2"}
			if version == harness.Versions[0] {
				runtimes = append(runtimes, harness.FlashcubeRuntime)
			}
			for _, runtime := range runtimes {
				t.Run(runtime, func(t *testing.T) {
					t.Cleanup(func() { // of a test that failed
						if err := b.RemoveContainers(context.WithoutCancel(t.Context())); err != nil {
							t.Error(err)
						}
					})
					nodes := ctrNodes(t, b.Containerd, runtime, image.Name, 2, nil)
					for _, n := range nodes {
						n.conf(t, map[string]any{"type": "host-local", "dataDir": n.IPAM()})
					}
					acrossNodes(t, nodes[0], nodes[1])
					for _, n := range nodes {
						n.MustHold()
					}
				})
			}
		})
	}
}

func acrossNodes(t *testing.T, near, far *ctrNode) {
	t.Helper()
	// One that ctr waits for, and one that it doesn't.
	waited, err := far.command(t.Context(), append(far.run("--rm", far.image, "waited"), server...)...)
	if err != nil {
		t.Fatal(err)
	}
	var diagnostics bytes.Buffer
	waited.Stderr = &diagnostics
	if err := waited.Start(); err != nil {
		t.Fatal(err)
	}
	far.ctr(t, append(far.run("--detach", far.image, "detached"), server...)...)
	for i, id := range []string{"waited", "detached"} {
		for j, address := range far.attached(t, id).Addresses {
			client := fmt.Sprintf("client-%d-%d", i, j)
			wantHello(t, client, near.ctr(t, append(near.run("--rm", near.image, client), get(address)...)...))
		}
	}
	near.MustHold()
	far.ctr(t, "task", "kill", "--signal", "SIGKILL", "waited")
	var exit *exec.ExitError
	if err := waited.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 137 {
		t.Errorf("ctr run of a container that was killed: %v\n%s", err, diagnostics.Bytes())
	}
	noErrors(t, diagnostics.String())
	far.ctr(t, "task", "kill", "--signal", "SIGKILL", "detached")
	far.ctr(t, "task", "delete", "--force", "detached")
	far.ctr(t, "container", "delete", "detached")
	if far.c.Version == "1.6" {
		// Its ctr doesn't take the network away from what it doesn't wait for.
		list := far.NamedList("falcon", "1.1.0", node.Network("falcon"))
		if err := far.GC(t.Context(), list); err != nil {
			t.Error(err)
		}
	}
}

// TestNetworkOffers has FlashCube's containers take namespaces that the network plugin has
// made ahead.
func TestNetworkOffers(t *testing.T) {
	b := setUpBundle(t, harness.Versions[0])
	image := busybox(t)
	ctr(t, b.Containerd, "image", "import", image.Archive)
	privateState(t)
	const offers = 2
	nodes := ctrNodes(t, b.Containerd, harness.FlashcubeRuntime, image.Name, 1, func(n *node.Node) {
		n.Config.Networks[0].Offers = offers
		if err := os.Symlink(b.Flashcube.Root, filepath.Join(n.Dir, "flashcube")); err != nil {
			t.Fatal(err)
		}
	})
	n := nodes[0]
	n.conf(t, nil)
	dir := network.Dir(b.Flashcube.Root, "falcon")
	first := offered(t, n, dir, offers)

	annotation := network.Annotation + "=falcon"
	n.ctr(t, append(n.run("--detach", "--annotation", annotation, n.image, "server"), server...)...)
	e := n.attached(t, "server")
	if !e.Pooled {
		t.Errorf("the container didn't get an offer: %+v", e)
	}
	second := offered(t, n, dir, offers)
	if in(first, second) != offers-1 {
		t.Errorf("one of %v should have gone: %v", first, second)
	}
	if out, err := n.Falcond("endpoints", "--json"); err != nil || !strings.Contains(out, `"Pooled":true`) {
		t.Errorf("falcond endpoints: %v\n%s", err, out)
	}
	for i, address := range e.Addresses {
		// One that takes an offer too, and one that has no say in it.
		for _, flags := range [][]string{{"--annotation", annotation}, nil} {
			id := fmt.Sprintf("client-%d-%d", i, len(flags))
			wantHello(t, id, n.ctr(t, append(n.run(append(flags, "--rm", n.image, id)...), get(address)...)...))
		}
	}
	n.ctr(t, "task", "kill", "--signal", "SIGKILL", "server")
	n.ctr(t, "task", "delete", "--force", "server")
	n.ctr(t, "container", "delete", "server")
	for _, name := range offered(t, n, dir, offers) {
		if slices.Contains(first, name) && !slices.Contains(second, name) {
			t.Errorf("%s is offered again", name)
		}
	}
	// Nothing is left but the offers.
	n.Eventually(func() error {
		r, err := n.Report()
		if err == nil && len(r.Endpoints) != offers {
			err = fmt.Errorf("endpoints: %+v", r.Endpoints)
		}
		return err
	})
	// And of these nothing when they are not wanted any more.
	n.Stop()
	n.Config.Networks[0].Offers = 0
	n.Start()
	offered(t, n, dir, 0)
	n.MustHold()
	entries, err := os.ReadDir("/var/lib/cni/networks/falcon")
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err == nil {
			t.Errorf("address %s is left", e.Name())
		}
	}
}

// offered waits until so many offers are ready and none is in another state, but for those
// that containers have.
func offered(t *testing.T, n *ctrNode, dir string, count int) (ready []string) {
	t.Helper()
	n.Eventually(func() error {
		for _, state := range []string{"making", "done", "ready"} {
			entries, err := os.ReadDir(filepath.Join(dir, state))
			if err != nil {
				return err
			}
			var names []string
			for _, e := range entries {
				names = append(names, e.Name())
			}
			if state == "ready" && len(names) != count || state != "ready" && len(names) > 0 {
				return fmt.Errorf("%s are %v", state, names)
			}
			ready = names
		}
		return nil
	})
	return ready
}

// in counts what two lists have in common.
func in(a, b []string) (both int) {
	for _, s := range a {
		if slices.Contains(b, s) {
			both++
		}
	}
	return both
}

// privateState gives the test's processes a /var/lib of their own, where addresses are
// reserved.
func privateState(t *testing.T) {
	t.Helper()
	if err := unix.Mount("none", "/var/lib", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount("/var/lib", 0); err != nil {
			t.Error(err)
		}
	})
}
