//go:build vm

package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/agent"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

// patience is long: the machine is emulated, on a host that may be busy.
const patience = time.Minute

// node is a node of the lab with an agent.
type node struct {
	*testing.T
	ns        *netnstest.NS
	name, dir string
	address   string
	subnet    string
	settings  string // of its configuration
	agent     *exec.Cmd
	log       bytes.Buffer
}

// lab is two nodes, a and b, with a container each, which reach each other.
type lab struct {
	*testing.T
	a, b   *node
	c1, c2 *netnstest.NS // on a and on b
}

const (
	addressC1, addressC2 = "10.88.1.2", "10.88.2.2"
)

// newLab takes what is to be in b's configuration, and in CNI's for its container.
func newLab(t *testing.T, settings, conf string) *lab {
	dir := t.TempDir()
	l := &lab{T: t, c1: netnstest.New(t), c2: netnstest.New(t)}
	l.a = &node{T: t, ns: netnstest.New(t), name: "a", dir: dir, address: "192.0.2.1", subnet: "10.88.1.0/24", settings: off}
	l.b = &node{T: t, ns: netnstest.New(t), name: "b", dir: dir, address: "192.0.2.2", subnet: "10.88.2.0/24", settings: settings}
	netnstest.Wire(netnstest.End{NS: l.a.ns, Link: "eth0"}, netnstest.End{NS: l.b.ns, Link: "eth0"}, 1500)
	var peers strings.Builder
	for _, n := range []*node{l.a, l.b} {
		n.ns.Address("eth0", n.address+"/24")
		fmt.Fprintf(&peers, "[[node]]\nname = %q\naddress = %q\nnetwork = [{vni = 1, subnets = [%q]}]\n", n.name, n.address, n.subnet)
	}
	if err := os.WriteFile(filepath.Join(dir, "peers.toml"), []byte(peers.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	l.a.starts()
	l.b.starts()
	l.a.attaches("c1", l.c1, "")
	l.b.attaches("c2", l.c2, conf)
	return l
}

const (
	off      = "shortcut.mode = \"off\"\npriority.mode = \"off\"\npipeline.mode = \"off\"\n"
	pipeline = "shortcut.mode = \"off\"\npriority.mode = \"off\"\npipeline.mode = \"on\"\n"
)

func (n *node) root() string { return filepath.Join(n.dir, "run-"+n.name) }

// starts runs the node's agent until it is ready; what was there of it stays.
func (n *node) starts() {
	n.Helper()
	config := filepath.Join(n.dir, n.name+".toml")
	text := fmt.Sprintf("node = %q\naddress = %q\npeers.file = %q\n%s[[network]]\nname = \"trial\"\nvni = 1\nsubnets = [%q]\ncluster = [\"10.88.0.0/16\"]\n",
		n.name, n.address, filepath.Join(n.dir, "peers.toml"), n.settings, n.subnet)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		n.Fatal(err)
	}
	n.agent = exec.Command("falcond", "--config", config, "--root", n.root(), "--state", filepath.Join(n.dir, "state-"+n.name))
	n.agent.Stdout, n.agent.Stderr = &n.log, &n.log
	n.ns.Do(func() {
		if err := n.agent.Start(); err != nil {
			n.Fatal(err)
		}
	})
	n.Cleanup(n.stops)
	n.waits("the network", func(r *agent.Report) bool {
		return len(r.Networks) == 1 && r.Networks[0].Problem == "" && len(r.Peers) == 1
	})
}

// stops ends the agent. All stays as it is.
func (n *node) stops() {
	if n.agent == nil {
		return
	}
	_ = n.agent.Process.Signal(unix.SIGTERM)
	err := n.agent.Wait()
	if n.agent = nil; err != nil || n.Failed() {
		n.Errorf("falcond of %s: %v\n%s", n.name, err, n.log.String())
	}
}

// waits for the agent to report something, and returns that.
func (n *node) waits(what string, is func(*agent.Report) bool) *agent.Report {
	n.Helper()
	var last *agent.Report
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		r, err := agent.Ask(n.Context(), n.root())
		if err == nil && is(r) {
			return r
		}
		if err == nil {
			last = r
		}
	}
	text, _ := json.Marshal(last)
	n.Fatalf("waited in vain for %s of %s: %s\n%s", what, n.name, text, n.log.String())
	return nil
}

func (n *node) reports() *agent.Report {
	n.Helper()
	r, err := agent.Ask(n.Context(), n.root())
	if err != nil {
		n.Fatal(err)
	}
	return r
}

// attaches does what a runtime does.
func (n *node) attaches(container string, ns *netnstest.NS, conf string) {
	n.Helper()
	cmd := exec.Command("falcon")
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "trial", "type": "falcon", "ipam": {"type": "host-local", "dataDir": %q}%s}`,
		filepath.Join(n.dir, "ipam-"+n.name), conf))
	cmd.Env = append(os.Environ(), "FALCON_ROOT="+n.root(), "CNI_COMMAND=ADD", "CNI_CONTAINERID="+container,
		"CNI_NETNS="+ns.Path(), "CNI_IFNAME=eth0", "CNI_PATH=/usr/bin")
	if out, err := cmd.CombinedOutput(); err != nil {
		n.Fatalf("ADD %s: %v\n%s\n%s", container, err, out, n.log.String())
	}
}

// shell runs a script in a network namespace, whose own /sys it sees.
func shell(t *testing.T, ns *netnstest.NS, script string) string {
	t.Helper()
	cmd := exec.Command("unshare", "-m", "sh", "-c", "mount -t sysfs sysfs /sys && "+script)
	var out []byte
	ns.Do(func() {
		var err error
		if out, err = cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
	})
	return strings.TrimSpace(string(out))
}
