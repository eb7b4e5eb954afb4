package attach

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

func TestStats(t *testing.T) {
	host, container := world(t)
	other := netnstest.New(t)
	s := spec(1)
	in(t, host, func() error { return Attach(container.File(), s) })
	in(t, host, func() error { return Attach(other.File(), spec(2)) })
	container.Echo("udp", "10.7.1.3:7")
	for range 10 {
		if err := host.Try("udp", "10.7.1.3:7", time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	// Nothing more passes once it is down.
	container.Down("eth0")
	inside, err := container.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	c := inside.Attrs().Statistics
	want := Traffic{c.RxPackets, c.RxBytes, c.TxPackets, c.TxBytes}
	host.Do(func() {
		got, err := Stats([]string{s.Link, LinkName("nobody", "eth0"), "fb7"})
		if err != nil || len(got) != 1 || got[s.Link] != want || want.ReceivedPackets < 10 || want.SentPackets < 10 {
			t.Errorf("got %+v, %v; inside %+v", got, err, want)
		}
	})
}

// TestStatsOfRedirected has what a program hands right to the container's end, past the
// host's counters.
func TestStatsOfRedirected(t *testing.T) {
	host, container := world(t)
	sender := netnstest.New(t)
	one, two := spec(1), spec(2)
	in(t, host, func() error { return Attach(container.File(), one) })
	in(t, host, func() error { return Attach(sender.File(), two) })
	host.Do(func() {
		to, err := netlink.LinkByName(one.Link)
		if err != nil {
			t.Fatal(err)
		}
		from, err := netlink.LinkByName(two.Link)
		if err != nil {
			t.Fatal(err)
		}
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R1, int32(to.Attrs().Index)), asm.Mov.Imm(asm.R2, 0), asm.FnRedirectPeer.Call(), asm.Return(),
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: from.Attrs().Index, Program: p, Attach: ebpf.AttachTCXIngress}); err != nil {
			t.Fatal(err)
		}
	})
	before := stats(t, host, one.Link)
	_ = sender.Try("udp", "10.7.1.2:9", 100*time.Millisecond) // nobody answers
	container.Down("eth0")
	got := stats(t, host, one.Link)
	inside, err := container.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	c := inside.Attrs().Statistics
	if got.ReceivedPackets == before.ReceivedPackets || got.ReceivedPackets != c.RxPackets || got.ReceivedBytes != c.RxBytes {
		t.Errorf("%+v, before %+v; inside %+v", got, before, c)
	}
	outside, err := host.Netlink().LinkByName(one.Link)
	if err != nil {
		t.Fatal(err)
	}
	if outside.Attrs().Statistics.TxPackets >= got.ReceivedPackets {
		t.Errorf("the host's end counted them: %+v", outside.Attrs().Statistics)
	}
}

func stats(t *testing.T, host *netnstest.NS, name string) (got Traffic) {
	t.Helper()
	in(t, host, func() error {
		all, err := Stats([]string{name})
		got = all[name]
		return err
	})
	return got
}
