package fastpath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

const patience = 30 * time.Second

// tap sends and receives whole frames on eth0 of a namespace.
type tap struct {
	t   testing.TB
	fd  int
	own mac
	buf []byte
}

func (l *lab) tap(ns *netnstest.NS) *tap {
	l.t.Helper()
	p := &tap{t: l.t, fd: -1, buf: make([]byte, 65536)}
	index, own := l.link(ns, "eth0")
	p.own = own
	all := int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}))
	var err error
	ns.Do(func() {
		p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
		if err == nil {
			err = unix.Bind(p.fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}), Ifindex: int(index)})
		}
	})
	if p.fd >= 0 {
		l.t.Cleanup(func() { unix.Close(p.fd) })
	}
	l.must(err)
	return p
}

func (p *tap) send(frame []byte) {
	p.t.Helper()
	end := time.Now().Add(patience)
	_, err := unix.Write(p.fd, frame)
	for errors.Is(err, unix.ENOBUFS) && time.Now().Before(end) { // the link is not up yet
		_, _ = unix.Poll(nil, 1)
		_, err = unix.Write(p.fd, frame)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// until lists the frames that came in for this station before one with the marker, without
// what looks for neighbours.
func (p *tap) until(marker []byte) (all [][]byte) {
	p.t.Helper()
	for end := time.Now().Add(patience); ; {
		n, from, err := unix.Recvfrom(p.fd, p.buf, 0)
		switch {
		case err == nil:
			b := bytes.Clone(p.buf[:n])
			if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING || n < 34 || mac(b) != p.own {
				continue
			}
			if bytes.Contains(b, marker) {
				return all
			}
			if kind := binary.BigEndian.Uint16(b[12:]); kind != 0x0806 && (kind != 0x86dd || b[20] != 58) {
				all = append(all, b)
			}
		case errors.Is(err, unix.EAGAIN):
			left := time.Until(end)
			if left <= 0 {
				p.t.Fatalf("the packet after it did not come; before it: %x", all)
			}
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		case !errors.Is(err, unix.EINTR):
			p.t.Fatal(err)
		}
	}
}

// stayOnCore keeps the caller on the core it is on, so that what it sends is handled in the
// order it is sent. It returns what undoes that.
func stayOnCore(t testing.TB) func() {
	t.Helper()
	runtime.LockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if before.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.SchedSetaffinity(0, &before); err != nil {
			t.Error(err)
		}
		runtime.UnlockOSThread()
	}
}

// TestKernelAndModelAgree sends frames to the node itself, with the shortcut off and on, and
// compares what the containers get with each other and with what the model says.
func TestKernelAndModelAgree(t *testing.T) {
	inners(t, func(t *testing.T, l *lab, v6 bool) {
		defer stayOnCore(t)()
		wire, a := l.tap(l.wire), l.container("a")
		others := map[string]*tap{"b": l.tap(l.boxes["b"]), "c": l.tap(l.boxes["c"])}
		box := l.tap(l.boxes["a"])
		count := 0
		// after sends a packet of a flow that nobody knows, so by the kernel's path, and returns
		// what came to the container before it.
		after := func() [][]byte {
			t.Helper()
			count++
			last := l.from(a, v6, protoUDP)
			last.inner.udp.source, last.inner.udp.destination = uint16(10000+count), 9
			last.inner.payload = fmt.Appendf(nil, "marker %08d", count)
			wire.send(last.bytes())
			return box.until(last.inner.payload)
		}
		after() // now the node knows the container's MAC
		delivered, taken := 0, 0
		for _, n := range l.packets(v6) {
			t.Run(n.name, func(t *testing.T) {
				l.t = t
				l.must(l.path.Renew())
				good := l.from(a, v6, protoUDP)
				frame := n.build(good)
				want := l.model.receive(frame)
				var got [2][][]byte
				for i, on := range []bool{false, true} {
					// What was learnt while it was off counts as well.
					l.must(errors.Join(l.path.Shortcut(on), l.path.Invalidate()))
					for _, protocol := range []byte{protoTCP, protoUDP} {
						for _, v6 := range []bool{false, true} {
							l.fast(l.from(a, v6, protocol).inner, 1, nil)
						}
					}
					before := l.reasons()
					wire.send(frame)
					got[i] = after()
					now := l.reasons()
					through := now["wire"] + now["tunnel"] - before["wire"] - before["tunnel"]
					if should := on && (n.reason == "" || n.name == "TCP"); should != (through == 1) {
						t.Errorf("shortcut on: %t. It was taken by %d packets", on, through)
					}
					taken += int(through)
				}
				if !equal(got[0], got[1]) {
					t.Errorf("by the kernel %x\nby the shortcut %x", got[0], got[1])
				}
				switch {
				case want.to != nil && (len(got[0]) != 1 || !bytes.Equal(got[0][0], want.frame)):
					t.Errorf("sent %x\ngot %x\nthe model: %x", frame, got[0], want.frame)
				case want.to == nil && !want.open && len(got[0]) != 0:
					t.Errorf("sent %x\ngot %x\nthe model: %s", frame, got[0], want.why)
				}
				delivered += len(got[0])
			})
		}
		l.t = t
		t.Logf("%d delivered, %d of them by the shortcut", delivered, taken)
		for name, other := range others {
			if n, _, err := unix.Recvfrom(other.fd, other.buf, 0); err == nil && mac(other.buf) == other.own && other.buf[13] == 0 {
				t.Errorf("container %s got %x", name, other.buf[:n])
			}
		}
		l.must(l.path.Shortcut(true))
	})
}

func equal(a, b [][]byte) bool {
	return bytes.Equal(bytes.Join(a, nil), bytes.Join(b, nil)) && len(a) == len(b)
}
