package netnstest

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitGone returns when link has left the namespace.
func waitGone(t *testing.T, ns *NS, link string) {
	t.Helper()
	updates, done := make(chan netlink.LinkUpdate, 16), make(chan struct{})
	defer func() {
		close(done)
		for range updates { // the library's goroutine ends with its channel
		}
	}()
	at := netns.NsHandle(ns.File().Fd())
	if err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{Namespace: &at}); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(2 * time.Minute) // a busy kernel takes its time
	for {
		if _, err := ns.Netlink().LinkByName(link); errors.As(err, &netlink.LinkNotFoundError{}) {
			return
		}
		select {
		case <-updates:
		case <-deadline:
			t.Fatalf("the other end of %s still lives: its namespace is held", link)
		}
	}
}

// The far end of a wire goes only when the kernel has taken its namespace apart.
func TestNamespaceEndsWithItsTest(t *testing.T) {
	near := New(t)
	for name, use := range map[string]func(*testing.T, *NS){
		"unused": func(*testing.T, *NS) {},
		"traffic": func(t *testing.T, far *NS) {
			far.Address("e", "10.0.0.2/24")
			far.Echo("tcp", "10.0.0.2:7")
			if err := near.Try("tcp", "10.0.0.2:7", time.Minute); err != nil {
				t.Error(err)
			}
			if _, err := far.Dial("udp", "10.0.0.1:9", time.Minute); err != nil {
				t.Error(err)
			}
		},
		"panic inside Do": func(t *testing.T, far *NS) {
			defer func() { _ = recover() }()
			far.Do(func() { panic("as a test that fails") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			far := New(t)
			Wire(End{far, "e"}, End{near, "e"}, 1500)
			near.Address("e", "10.0.0.1/24")
			use(t, far)
		})
		waitGone(t, near, "e")
	}
}

func TestDoNestsAndReturns(t *testing.T) {
	a, b := New(t), New(t)
	inode := func() uint64 {
		var st unix.Stat_t
		if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	home := inode()
	a.Do(func() {
		inA := inode()
		b.Do(func() {
			if in := inode(); in == inA || in == home {
				t.Error("not in b")
			}
		})
		if inode() != inA || inA == home {
			t.Error("not back in a")
		}
	})
	if inode() != home {
		t.Error("not back at home")
	}
}

func TestSwitchCarriesBothFamilies(t *testing.T) {
	a, b, c := New(t), New(t), New(t)
	Switch(1400, End{a, "eth0"}, End{b, "eth0"}, End{c, "eth0"})
	for i, ns := range []*NS{a, b, c} {
		n := string(rune('1' + i))
		ns.Address("eth0", "10.0.0."+n+"/24")
		ns.Address("eth0", "fd00::"+n+"/64")
	}
	for _, network := range []string{"tcp", "udp"} {
		for _, address := range []string{b.Echo(network, "10.0.0.2:0"), b.Echo(network, "[fd00::2]:0"), c.Echo(network, "10.0.0.3:0")} {
			if err := a.Try(network, address, time.Minute); err != nil {
				t.Errorf("%s %s: %v", network, address, err)
			}
		}
	}
}

func TestTryGivesUp(t *testing.T) {
	a, b := New(t), New(t)
	Wire(End{a, "eth0"}, End{b, "eth0"}, 1500)
	a.Address("eth0", "10.0.0.1/24")
	b.Address("eth0", "10.0.0.2/24")
	b.ListenPacket("udp", "10.0.0.2:7") // takes and never answers
	if err := a.Try("udp", "10.0.0.2:7", 250*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := a.Try("tcp", "10.0.0.2:7", time.Minute); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("got %v", err)
	}
}
