package agent

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/endpoint"
	"github.com/peregrine-dev/peregrine/netplugin/fastpath"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	"github.com/peregrine-dev/peregrine/netplugin/pipeline"
)

// stagesLab is an agent's part in the pipeline, on a node with a VXLAN device; its cores are
// what the test says, for the machine may have too few.
type stagesLab struct {
	*testing.T
	agent *Agent
	run   *run
	now   time.Time
}

func newStagesLab(t *testing.T, do func(*stagesLab)) {
	t.Helper()
	netnstest.New(t).Do(func() {
		for _, l := range []netlink.Link{
			&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "far"},
			&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "fx7"}, VxlanId: 7, Port: 4789},
		} {
			if err := netlink.LinkAdd(l); err != nil {
				t.Fatal(err)
			}
		}
		nic, err := netlink.LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		address, _ := netlink.ParseAddr("192.0.2.1/24")
		if err := netlink.AddrAdd(nic, address); err != nil {
			t.Fatal(err)
		}
		path, err := fastpath.Open(fastpath.Probe())
		if err != nil {
			t.Fatal(err)
		}
		defer path.Close()
		state := fastpath.State{Node: netip.MustParseAddr("192.0.2.1"), Port: 4789, Networks: []fastpath.Network{{VNI: 7, Device: "fx7"}}}
		if err := path.Sync(state); err != nil {
			t.Fatal(err)
		}
		l := &stagesLab{T: t, agent: &Agent{root: t.TempDir(), endpoints: map[key]*endpoint.Record{}}, now: time.Now()}
		l.agent.shortcut.path = path
		l.restarts(pipeline.On)
		do(l)
	})
}

// restarts is the next agent.
func (l *stagesLab) restarts(mode pipeline.Mode) {
	l.Helper()
	rps, err := pipeline.OpenRPS(filepath.Join(l.agent.root, rpsFile))
	if err != nil {
		l.Fatal(err)
	}
	cores := &pipeline.Cores{Driver: []int{0}, VXLAN: []int{1}, Veth: []int{1}}
	l.run = &run{
		agent: l.agent, path: l.agent.shortcut.get(), rps: rps, masks: map[key]uint64{}, cores: cores,
		governor: pipeline.NewGovernor(mode, cores, ""), meter: pipeline.NewMeter(cores.All()),
	}
}

// decides wants it to be on or off after the next decision.
func (l *stagesLab) decides(on bool) PipelineReport {
	l.Helper()
	l.now = l.now.Add(time.Second)
	err := l.run.measure()
	if err == nil {
		err = l.run.decide(l.now, false)
	}
	l.run.tell(context.Background(), err, true)
	r := l.agent.pipeline.get()
	if err != nil || r.On != on || r.Problem != "" {
		l.Fatal(r, err)
	}
	for _, device := range []string{"eth0", "fx7"} {
		d, err := netlink.LinkByName(device)
		if err != nil {
			l.Fatal(err)
		}
		if x := d.Attrs().Xdp; (x != nil && x.Attached) != on {
			l.Errorf("%s: %+v; want a program: %v", device, x, on)
		}
	}
	return r
}

// attaches gives the node a container.
func (l *stagesLab) attaches(name string) *netnstest.NS {
	l.Helper()
	ns := netnstest.New(l.T)
	netnstest.Wire(netnstest.End{NS: ns, Link: "eth0"}, netnstest.End{NS: ns, Link: "far"}, 1400)
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.File().Fd()), &st); err != nil {
		l.Fatal(err)
	}
	r := &endpoint.Record{ContainerID: name, IfName: "eth0", Namespace: ns.Path(), NamespaceInode: st.Ino, Complete: true}
	l.agent.endpoints[keyOf(r)] = r
	return ns
}

// mask is that of a container's only queue; a script may change it first.
func (l *stagesLab) mask(ns *netnstest.NS, script string) string {
	l.Helper()
	const file = "/sys/class/net/eth0/queues/rx-0/rps_cpus"
	cmd := exec.Command("nsenter", "--net="+ns.Path(), "unshare", "--mount", "sh", "-c", "mount -t sysfs sysfs /sys && "+script+" cat "+file)
	out, err := cmd.CombinedOutput()
	if err != nil {
		l.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func (l *stagesLab) masked(ns *netnstest.NS, want string) {
	l.Helper()
	if is := l.mask(ns, ""); is != want {
		l.Errorf("the mask is %q, want %q", is, want)
	}
}

func TestStagesAreSpreadAndGivenBack(t *testing.T) {
	newStagesLab(t, func(l *stagesLab) {
		one, theirs := l.attaches("one"), l.attaches("theirs")
		l.mask(theirs, "echo 1 >/sys/class/net/eth0/queues/rx-0/rps_cpus;")
		r := l.decides(true)
		if r.Cores != "driver 0, vxlan 1, veth 1" || r.Why != "on: so says the configuration" || len(r.Foreign) != 1 || r.Foreign[0] != (ForeignQueue{"theirs", "eth0", "rx-0", "0"}) {
			t.Errorf("%+v", r)
		}
		l.masked(one, "2")
		l.masked(theirs, "1")
		if r = l.decides(true); len(r.Loads) == 0 {
			t.Errorf("%+v", r)
		}
		two := l.attaches("two")
		l.decides(true)
		l.masked(two, "2")

		// A container goes, its namespace stays; another agent ends it all.
		delete(l.agent.endpoints, key{"theirs", "eth0"})
		if r := l.decides(true); len(r.Foreign) != 0 {
			t.Errorf("%+v", r)
		}
		l.restarts(pipeline.Off)
		r = l.decides(false)
		if r.Why != "off: so says the configuration" {
			t.Errorf("%+v", r)
		}
		for ns, want := range map[*netnstest.NS]string{one: "0", two: "0", theirs: "1"} {
			l.masked(ns, want)
		}
		if l.run.rps.Holds() {
			t.Error("masks are remembered for good")
		}
		l.restarts(pipeline.On)
		l.decides(true)

		// Too few cores are left.
		l.run.governor.SetCores(nil, "1 core")
		l.run.cores = nil
		if r := l.decides(false); r.Why != "off: 1 core" || r.Cores != "" {
			t.Errorf("%+v", r)
		}
		l.masked(one, "0")
	})
}

// Another has the path of a container that is gone.
func TestOthersNamespaceIsLeftAlone(t *testing.T) {
	newStagesLab(t, func(l *stagesLab) {
		ns := l.attaches("one")
		for _, r := range l.agent.endpoints {
			r.NamespaceInode++
		}
		l.attaches("gone")
		l.agent.endpoints[key{"gone", "eth0"}].Namespace = filepath.Join(t.TempDir(), "none")
		l.decides(true)
		l.masked(ns, "0")
	})
}

// In mode off, and where there are too few cores, nothing goes on, and what an agent before
// left is taken away.
func TestNoPipelineNoWork(t *testing.T) {
	newStagesLab(t, func(l *stagesLab) {
		ns := l.attaches("one")
		l.decides(true)
		l.masked(ns, "2")
		looked := make(chan struct{})
		close(looked)
		l.agent.config = config.Config{Pipeline: config.Pipeline{Mode: "off"}}
		if l.agent.planPipeline(t.Context()) {
			t.Error("there are to be stages")
		}
		if err := l.agent.runPipeline(t.Context(), looked); err != nil { // it returns
			t.Fatal(err)
		}
		if r := l.agent.pipeline.get(); r.On || r.Why != "off: so says the configuration" || r.Problem != "" {
			t.Errorf("%+v", r)
		}
		l.masked(ns, "0")

		l.agent.config.Pipeline = config.Pipeline{Mode: "on", Cores: "4000"}
		if l.agent.planPipeline(t.Context()) || !strings.Contains(l.agent.pipeline.why, "CPU 4000 is offline") {
			t.Error(l.agent.pipeline.why)
		}
		if err := os.WriteFile(filepath.Join(l.agent.root, rpsFile), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := l.agent.runPipeline(t.Context(), looked); err != nil || !strings.Contains(l.agent.pipeline.get().Why, "damaged") {
			t.Error(err, l.agent.pipeline.get())
		}
	})
}
