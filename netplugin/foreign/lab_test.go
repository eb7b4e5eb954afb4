package foreign

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a node with a NIC, the two devices of a network, and a container's link.
type node struct {
	*netnstest.NS
	t         *testing.T
	container *netnstest.NS
	links     []Link // eth0, fb1, fx1, and the container's
	debian    string
}

const containerLink = "fv0123456789a"

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{NS: netnstest.New(t), t: t, container: netnstest.New(t), debian: debian(t)}
	netnstest.Wire(netnstest.End{NS: n.NS, Link: "eth0"}, netnstest.End{NS: netnstest.New(t), Link: "eth0"}, 1500)
	if err := n.Netlink().LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "fx1"}, VxlanId: 1, Port: 4789}); err != nil {
		t.Fatal(err)
	}
	n.Up("fx1")
	n.Bridge("fb1", 1450)
	netnstest.Wire(netnstest.End{NS: n.NS, Link: containerLink}, netnstest.End{NS: n.container, Link: "eth0"}, 1450)
	n.Port("fb1", containerLink)
	n.Address("eth0", "192.0.2.1/24")
	n.Address("fb1", "10.88.1.1/24")
	n.container.Address("eth0", "10.88.1.2/24")
	for _, name := range []string{"eth0", "fb1", "fx1", containerLink} {
		n.links = append(n.links, Link{Index: n.index(name), Name: name, NIC: name == "eth0"})
	}
	return n
}

// in is the node for a test within another.
func (n *node) in(t *testing.T) *node {
	m := *n
	m.t = t
	return &m
}

func (n *node) index(name string) int { return n.link(name).Attrs().Index }

func (n *node) link(name string) netlink.Link {
	n.t.Helper()
	l, err := n.Netlink().LinkByName(name)
	if err != nil {
		n.t.Fatal(err)
	}
	return l
}

// debian is where the stock parts are.
func debian(t *testing.T) string {
	t.Helper()
	cache := os.Getenv("PEREGRINE_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(dir, "peregrine")
	}
	dir := filepath.Join(cache, "debian")
	if _, err := os.Stat(filepath.Join(dir, "usr/sbin/nft")); err != nil {
		t.Fatalf("%v; run `make stock`", err)
	}
	return dir
}

// sh runs commands of the shell on the node, with the stock nft and iptables.
func (n *node) sh(commands string) { n.t.Helper(); n.run("", nil, "/bin/sh", "-ec", commands) }

// nft loads rules.
func (n *node) nft(rules string) {
	n.t.Helper()
	n.run(rules, nil, filepath.Join(n.debian, "usr/sbin/nft"), "-f", "-")
}

// plugin runs a stock plugin of CNI for the container, after falcon.
func (n *node) plugin(command, name, conf string) {
	n.t.Helper()
	dir := filepath.Join(n.debian, "usr/lib/cni")
	conf = strings.Replace(conf, "{", `{"cniVersion": "1.0.0", "name": "test", "type": "`+name+`", "prevResult": {"cniVersion": "1.0.0",
		"interfaces": [{"name": "fb1"}, {"name": "`+containerLink+`"}, {"name": "eth0", "sandbox": "`+n.container.Path()+`"}],
		"ips": [{"address": "10.88.1.2/24", "interface": 2}]}, `, 1)
	env := []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_NETNS=" + n.container.Path(), "CNI_IFNAME=eth0", "CNI_PATH=" + dir}
	n.run(conf, env, filepath.Join(dir, name))
}

func (n *node) run(in string, env []string, program string, args ...string) {
	n.t.Helper()
	cmd := exec.CommandContext(n.t.Context(), program, args...)
	cmd.Stdin = strings.NewReader(in)
	libraries, _ := filepath.Glob(filepath.Join(n.debian, "usr/lib/*-linux-*"))
	more, _ := filepath.Glob(filepath.Join(n.debian, "lib/*-linux-*"))
	cmd.Env = append(env, "PATH="+filepath.Join(n.debian, "usr/sbin")+":/usr/sbin:/usr/bin:/sbin:/bin",
		"LD_LIBRARY_PATH="+strings.Join(append(libraries, more...), ":"), "XTABLES_LOCKFILE="+filepath.Join(n.t.TempDir(), "lock"))
	for _, dir := range libraries {
		cmd.Env = append(cmd.Env, "XTABLES_LIBDIR="+filepath.Join(dir, "xtables"))
	}
	n.Do(func() {
		if out, err := cmd.CombinedOutput(); err != nil {
			n.t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, bytes.TrimSpace(out))
		}
	})
}

func (n *node) judge() (v Verdict) {
	n.t.Helper()
	n.Do(func() {
		var err error
		if v, err = Judge(n.links); err != nil {
			n.t.Fatal(err)
		}
	})
	return v
}

// expect fails the test unless the verdict on the node has a part, or is none for "", and
// that on exactly the named links has one.
func (n *node) expect(want string, links map[string]string) {
	n.t.Helper()
	v := n.judge()
	if (v.Node == "") != (want == "") || !strings.Contains(v.Node, want) {
		n.t.Errorf("the node: got %q, want %q", v.Node, want)
	}
	for _, l := range n.links {
		got, want := v.Links[l.Index], links[l.Name]
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			n.t.Errorf("%s: got %q, want %q", l.Name, got, want)
		}
	}
}
