//go:build vm

package pipeline

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/agent"
	"github.com/peregrine-dev/peregrine/netplugin/fastpath"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

// staysOn keeps the test's thread on a CPU: it is what the NIC's interrupt is elsewhere,
// for packets over a veth are received by whoever sends them.
func staysOn(t *testing.T, cpu int) {
	t.Helper()
	runtime.LockOSThread()
	var before, one unix.CPUSet
	one.Set(cpu)
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.SchedSetaffinity(0, &before); err != nil {
			t.Error(err)
		}
		runtime.UnlockOSThread()
	})
}

func TestMachine(t *testing.T) {
	if n := runtime.NumCPU(); n != 4 {
		t.Fatalf("%d CPUs, want 4", n)
	}
	features := fastpath.Probe()
	if features.TCX == nil || features.CheckMTU != nil || features.CPUMap != nil {
		t.Errorf("%+v: this is to be a kernel with clsact, and without tcx", features)
	}
	netnstest.New(t).Do(func() {
		path, err := fastpath.Open(features)
		if err != nil {
			t.Fatalf("%+v", err)
		}
		if err := path.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Every packet of a flow passes each stage, on that stage's core and on no other.
func TestStagesRunOnTheirCores(t *testing.T) {
	l := newLab(t, pipeline, "")
	traced := newTracer(t)
	r := l.b.waits("the pipeline", func(r *agent.Report) bool { return r.Pipeline.On && len(r.Pipeline.Loads) == 4 })
	if r.Pipeline.Cores != "driver 0,3, vxlan 1, veth 2" || r.Pipeline.Problem != "" || r.Pipeline.Why != "on: so says the configuration" {
		t.Errorf("%+v", r.Pipeline)
	}
	masked(t, l, "4")
	const flows, packets = 12, 500
	driver := map[int]int{}
	var steered uint64
	for flow := range flows {
		t.Run(fmt.Sprint(flow), func(t *testing.T) {
			staysOn(t, 0)
			s := newStream(t, l.c1, l.c2, addressC2, 1)
			s.sends(1, nil) // ARP comes first
			before := where(l, traced)
			counted := l.b.reports().Shortcut.Steered["steered"]
			// At leisure: what is loaded on average would be left where it is.
			s.sends(packets, func() { unix.Nanosleep(&unix.Timespec{Nsec: 2_000_000}, nil) })
			is := where(l, traced)
			for i := range is {
				for cpu, n := range before[i] {
					if is[i][cpu] -= n; is[i][cpu] == 0 {
						delete(is[i], cpu)
					}
				}
			}
			steered += l.b.reports().Shortcut.Steered["steered"] - counted
			core := 0
			if is[0][3] > 0 {
				core = 3
			}
			driver[core]++
			// The VXLAN device hands each packet over: it is there on both cores.
			for i, want := range []string{on(packets, core), on(packets, core, 1), on(packets, 2)} {
				if got := fmt.Sprint(is[i]); got != want {
					t.Errorf("stage %d: %s, want %s", i, got, want)
				}
			}
			if s.late != 0 || s.lost != 0 {
				t.Errorf("%d late, %d lost", s.late, s.lost)
			}
		})
	}
	if driver[0] == 0 || driver[3] == 0 {
		t.Error("all flows chose the same core")
	}
	last := l.b.reports()
	t.Logf("%d flows by the core of their first stage: %v; %v; loads %v", flows, driver, last.Shortcut.Steered, last.Pipeline.Loads)
	// Those of core 0 were there already at the first stage.
	if want := uint64(packets * (flows + driver[3])); steered != want {
		t.Errorf("%d were steered, want %d", steered, want)
	}
}

// where is what was received of a stream, by CPU: at b's NIC, at its VXLAN device, and in
// its container.
func where(l *lab, traced *tracer) []map[int]uint64 {
	return []map[int]uint64{
		traced.received(l.b.ns, "eth0", encaps), traced.received(l.b.ns, "fx1", inner), traced.received(l.c2, "eth0", inner),
	}
}

// However fast packets come, those of a flow come in order: through queues that are full,
// with cores so busy that choices change.
func TestFlowsStayInOrder(t *testing.T) {
	const most, flows = 10_000_000, 16
	l := newLab(t, pipeline, "")
	l.b.waits("the pipeline", func(r *agent.Report) bool { return r.Pipeline.On && len(r.Pipeline.Loads) == 4 })
	staysOn(t, 0)
	s := newStream(t, l.c1, l.c2, addressC2, flows)
	s.sends(1, nil) // ARP comes first
	s.wired(l)
	begin := time.Now()
	var loads []string
	for time.Since(begin) < 3*time.Minute && s.sent < most {
		for range 50 {
			s.sends(64, nil)
		}
		if len(loads) < 8 {
			loads = append(loads, fmt.Sprint(l.b.reports().Pipeline.Loads))
		}
	}
	r := l.b.reports()
	t.Logf("%d packets of %d flows in %v: %d late, %d lost; %v; loads %s", s.sent, flows, time.Since(begin).Round(time.Second), s.late, s.lost, r.Shortcut.Steered, strings.Join(loads, " "))
	if s.late != 0 {
		t.Errorf("%d of %d packets came after later ones", s.late, s.sent)
	}
	if s.sent < 20_000 || s.lost > s.sent/1000 {
		t.Errorf("%d packets, of which %d were lost", s.sent, s.lost)
	}
	if r.Shortcut.Steered["steered"] < s.sent/4 {
		t.Errorf("hardly anything was steered: %v", r.Shortcut.Steered)
	}
}

// masked wants the mask of c2's only queue to be this.
func masked(t *testing.T, l *lab, want string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		is := shell(t, l.c2, "cat /sys/class/net/eth0/queues/rx-0/rps_cpus")
		if is == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the mask of the container's queue is %q, want %q", is, want)
		}
	}
}

// Masks that somebody else set are left as they are, and told of. Ours go with the mode.
func TestMasks(t *testing.T) {
	l := newLab(t, pipeline, "")
	masked(t, l, "4")
	l.b.stops()
	masked(t, l, "4") // it stays, as all does
	l.b.settings = off
	l.b.starts()
	masked(t, l, "0")
	for _, device := range []string{"eth0", "fx1"} {
		if at, err := l.b.ns.Netlink().LinkByName(device); err != nil || at.Attrs().Xdp != nil && at.Attrs().Xdp.Attached {
			t.Error("a program is left at", device, err)
		}
	}

	l.b.stops()
	shell(t, l.c2, "echo 8 >/sys/class/net/eth0/queues/rx-0/rps_cpus")
	l.b.settings = pipeline
	l.b.starts()
	r := l.b.waits("the container", func(r *agent.Report) bool { return len(r.Pipeline.Foreign) > 0 })
	if got := fmt.Sprint(r.Pipeline.Foreign); !r.Pipeline.On || got != "[{c2 eth0 rx-0 3}]" {
		t.Errorf("%+v", r.Pipeline)
	}
	masked(t, l, "8")
	l.b.stops()
	l.b.settings = off
	l.b.starts()
	masked(t, l, "8")
}

// The shortcut works without tcx, and by this kernel's helpers.
func TestShortcut(t *testing.T) {
	l := newLab(t, "pipeline.mode = \"off\"\n", "")
	staysOn(t, 0)
	s := newStream(t, l.c1, l.c2, addressC2, 4)
	r := l.b.waits("the shortcut", func(r *agent.Report) bool { return r.Shortcut.Off == "" && r.Shortcut.Problem == "" })
	l.c2.Echo("tcp", addressC2+":80")
	s.settles()
	for range 20 {
		s.sends(50, nil)
		if err := l.c1.Try("tcp", addressC2+":80", patience); err != nil {
			t.Error(err)
		}
	}
	is := l.b.reports().Shortcut
	if is.Taken["wire"] < 1000 || is.Taken["tunnel"] == 0 || is.Taken["out"] == 0 || s.late != 0 || s.lost != 0 {
		t.Errorf("%+v, then %+v; %d late, %d lost", r.Shortcut, is, s.late, s.lost)
	}
}

// Packets of class high overtake, with the pipeline and without.
func TestPriority(t *testing.T) {
	for name, settings := range map[string]string{"alone": "pipeline.mode = \"off\"\n", "with the pipeline": "pipeline.mode = \"on\"\n"} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, settings, fmt.Sprintf(`, "priority": {"rules": [{"proto": "udp", "port": %d, "class": "high"}]}`, port))
			staysOn(t, 0)
			s := newStream(t, l.c1, l.c2, addressC2, 4)
			l.c2.Echo("udp", addressC2+":9")
			l.b.waits("the shortcut", func(r *agent.Report) bool { return r.Shortcut.Off == "" && r.Shortcut.Problem == "" })
			s.settles()
			for range 20 {
				s.sends(50, nil)
				if err := l.c1.Try("udp", addressC2+":9", patience); err != nil {
					t.Error(err)
				}
			}
			is := l.b.reports().Shortcut
			others := is.Steered["deferred"] + is.Steered["steered"]
			if is.Steered["promoted"] < 1000 || others == 0 || s.late != 0 || s.lost != 0 {
				t.Errorf("%+v; %d late, %d lost", is, s.late, s.lost)
			}
		})
	}
}
