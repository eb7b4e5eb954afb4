package pipeline

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMasksAreSetAndGivenBack(t *testing.T) {
	p := newPair(t)
	for _, cpus := range [][]int{{0}, {0}, {0, 1}, {1}} {
		if foreign := p.sets(p.container, "eth0", cpus...); foreign != nil {
			t.Error(foreign)
		}
		p.has(p.container, "eth0", cpus...)
		p.has(p.container, "lo")
		p.has(p.node, "fv0")
		p.owns(1)
	}
	p.node.Do(func() { // of the caller's namespace
		if foreign, err := p.rps.Set(nil, "fv0", []int{0}); foreign != nil || err != nil {
			t.Error(foreign, err)
		}
	})
	p.has(p.node, "fv0", 0)
	p.owns(2)

	p.restart() // the agent
	before, err := os.Stat(p.file)
	if err != nil {
		t.Fatal(err)
	}
	p.sets(p.container, "eth0", 1)
	p.sets(p.node, "fv0", 0)
	if after, err := os.Stat(p.file); err != nil || !os.SameFile(before, after) {
		t.Error("the file was written though nothing changed:", err)
	}
	if foreign := p.restores(p.node); foreign != nil {
		t.Error(foreign)
	}
	p.has(p.node, "fv0")
	p.has(p.container, "eth0", 1)
	p.owns(1)
	if foreign := p.sets(p.container, "eth0"); foreign != nil { // no CPUs
		t.Error(foreign)
	}
	p.has(p.container, "eth0")
	p.owns(0)
	p.restores(p.container)
}

// Somebody who mounts a sysfs in the container's namespace sees the mask, too.
func TestMaskIsTheNamespaces(t *testing.T) {
	p := newPair(t)
	p.sets(p.container, "eth0", 1)
	script := "mount -t sysfs sysfs /sys && cat /sys/class/net/eth0/queues/rx-0/rps_cpus"
	out, err := exec.Command("nsenter", "--net="+p.container.Path(), "unshare", "--mount", "sh", "-c", script).CombinedOutput()
	if cpus, _ := parseMask(string(out)); !slices.Equal(cpus, []int{1}) || err != nil {
		t.Errorf("%s, %v", out, err)
	}
}

func TestPacketsGoWhereTheMaskSays(t *testing.T) {
	p := newPair(t)
	p.node.Address("fv0", "10.9.0.1/24")
	p.container.Address("eth0", "10.9.0.2/24")
	p.node.Echo("udp", "10.9.0.1:7")
	c, err := p.container.Dial("udp", "10.9.0.1:7", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	cpus, err := UsableCPUs()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range cpus {
		p.sets(p.container, "eth0", want)
		for range 20 {
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 9)); err != nil {
				t.Fatal(err)
			}
			if got := incomingCPU(t, c.(interface{ File() (*os.File, error) })); got != want {
				t.Fatalf("a packet came by CPU %d, not %d", got, want)
			}
		}
	}
}

func incomingCPU(t *testing.T, c interface{ File() (*os.File, error) }) int {
	f, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cpu, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_INCOMING_CPU)
	if err != nil {
		t.Fatal(err)
	}
	return cpu
}

func TestMasksOfOthersAreLeftAlone(t *testing.T) {
	p := newPair(t)
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "two", NumRxQueues: 2, NumTxQueues: 2}, PeerName: "peer"}
	if err := p.node.Netlink().LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	p.meddles(p.node, "two", 0)
	foreign := p.sets(p.node, "two", 1)
	if len(foreign) != 1 || foreign[0].String() != "packets of two, queue rx-0, are spread over CPUs 0 by somebody else, and left so" {
		t.Error(foreign)
	}
	p.owns(1) // rx-1
	p.meddles(p.node, "two")
	p.has2(link.Name, nil, []int{1})
	p.sets(p.node, "two", 1) // zero again: nobody's
	p.has2(link.Name, []int{1}, []int{1})
	p.owns(2)
	p.meddles(p.node, "two", 0, 1) // over ours
	if foreign := p.sets(p.node, "two", 0); len(foreign) != 1 || foreign[0].Queue != "rx-0" {
		t.Error(foreign)
	}
	p.has2(link.Name, []int{0, 1}, []int{0})
	p.owns(1)
	if foreign := p.restores(p.node); foreign != nil {
		t.Error("it was never ours, or no longer:", foreign)
	}
	p.has2(link.Name, []int{0, 1}, nil)
	p.owns(0)

	p.sets(p.container, "eth0", 0)
	p.meddles(p.container, "eth0", 1)
	if foreign := p.restores(p.container); len(foreign) != 1 {
		t.Error(foreign)
	}
	p.has(p.container, "eth0", 1)
	p.owns(0)
	if foreign := p.sets(p.container, "eth0"); foreign != nil {
		t.Error(foreign)
	}
	p.has(p.container, "eth0", 1)
}

// A kill may come between remembering and setting, and between setting and forgetting.
func TestKilledInTheMiddle(t *testing.T) {
	for _, kernel := range [][]int{nil, {0}, {1}} {
		p := newPair(t)
		p.sets(p.container, "eth0", 0)
		p.rps.now.Queues[0].Masks = []string{"0", "1"}
		if err := p.rps.now.write(p.file); err != nil {
			t.Fatal(err)
		}
		p.meddles(p.container, "eth0", kernel...)
		p.restart()
		if foreign := p.sets(p.container, "eth0", 0, 1); foreign != nil {
			t.Error(foreign)
		}
		p.has(p.container, "eth0", 0, 1)
		if got := p.rps.now.Queues; len(got) != 1 || !slices.Equal(got[0].Masks, []string{"0-1"}) {
			t.Error(got)
		}
		p.restores(p.container)
		p.has(p.container, "eth0")
	}
}

func TestDevicesThatGo(t *testing.T) {
	p := newPair(t)
	h := p.node.Netlink()
	gone := func() {
		t.Helper()
		l, err := h.LinkByName("fv0")
		if err == nil {
			err = h.LinkDel(l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	p.sets(p.node, "fv0", 0)
	gone()
	if _, err := p.rps.Set(p.node.File(), "fv0", []int{0}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	p.owns(1)
	p.wire()
	p.meddles(p.node, "fv0", 0) // the same mask, but of another device
	if foreign := p.sets(p.node, "fv0", 1); len(foreign) != 1 {
		t.Error(foreign)
	}
	p.has(p.node, "fv0", 0)
	p.owns(0)
	p.meddles(p.node, "fv0")
	p.sets(p.node, "fv0", 1)
	p.owns(1)
	gone()
	if foreign := p.restores(p.node); foreign != nil {
		t.Error(foreign)
	}
	p.owns(0)
}

func TestNamespacesThatGo(t *testing.T) {
	p := newPair(t)
	third := netnstest.New(t)
	p.sets(p.node, "lo", 0)
	p.sets(p.container, "lo", 0)
	p.sets(third, "lo", 0)
	p.owns(3)
	p.node.Do(func() {
		if err := p.rps.Retain(third.File()); err != nil {
			t.Error(err)
		}
	})
	p.owns(2)
	if foreign := p.sets(p.container, "lo", 1); len(foreign) != 1 {
		t.Error("it was forgotten:", foreign)
	}
	if err := p.rps.Retain(); err != nil {
		t.Error(err)
	}
	p.owns(0)
}

func TestAnotherBootAndDamage(t *testing.T) {
	p := newPair(t)
	p.sets(p.node, "lo", 0)
	p.rps.now.Boot = "another"
	if err := p.rps.now.write(p.file); err != nil {
		t.Fatal(err)
	}
	p.restart()
	if len(p.rps.now.Queues) != 0 {
		t.Error(p.rps.now)
	}
	if err := os.WriteFile(p.file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRPS(p.file); err == nil || !strings.Contains(err.Error(), p.file) {
		t.Error(err)
	}
	p.file = filepath.Join(p.file, "nowhere")
	p.rps.file = p.file
	if _, err := p.rps.Set(p.container.File(), "lo", []int{0}); err == nil {
		t.Error("set without being remembered")
	}
	p.has(p.container, "lo")
}

func TestRefused(t *testing.T) {
	p := newPair(t)
	for link, is := range map[string]func(error) bool{
		"nope": errdefs.IsNotFound, "": errdefs.IsInvalidArgument, "..": errdefs.IsInvalidArgument, "../../../..": errdefs.IsInvalidArgument,
	} {
		if foreign, err := p.rps.Set(p.node.File(), link, []int{0}); !is(err) {
			t.Errorf("%q: %v, %v", link, foreign, err)
		}
	}
	if foreign, err := p.rps.Set(p.node.File(), "lo", []int{0, 5000}); !errdefs.IsInvalidArgument(err) {
		t.Error(foreign, err)
	}
	p.has(p.node, "lo")
	p.sets(p.node, "lo", 0) // as before
	p.has(p.node, "lo", 0)
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if foreign, err := p.rps.Set(f, "lo", []int{0}); !errors.Is(err, unix.EINVAL) {
		t.Error(foreign, err)
	}
}

// Many at once, and nothing is left open.
func TestManyAtOnce(t *testing.T) {
	p := newPair(t)
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := open()
	var all sync.WaitGroup
	for i := range 8 {
		ns, link := p.node, "fv0"
		if i%2 == 0 {
			ns, link = p.container, "eth0"
		}
		all.Go(func() {
			for j := range 20 {
				if foreign, err := p.rps.Set(ns.File(), link, []int{j % 2}); foreign != nil || err != nil {
					t.Error(foreign, err)
				}
			}
		})
	}
	all.Wait()
	if after := open(); after > before {
		t.Errorf("%d files were open, now %d", before, after)
	}
	p.restores(p.node)
	p.restores(p.container)
	p.has(p.node, "fv0")
	p.has(p.container, "eth0")
	p.owns(0)
}
