//go:build vm

package pipeline

import (
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

const (
	port    = 7000
	payload = 200                    // bytes
	inner   = 20 + 8 + payload       // from the IP header on
	encaps  = 36 + 14 + inner        // so, with VXLAN around it
	windows = 192                    // packets under way: fewer than any queue on the way holds
	longest = 500 * time.Millisecond // without a packet; then what is under way is lost
)

// stream is UDP from one container to another, in flows whose packets are numbered.
type stream struct {
	*testing.T
	to    int   // the receiver's socket
	from  []int // a socket for each flow
	next  []uint64
	sent  uint64
	got   atomic.Uint64
	seen  []uint64 // the number after the last one, by flow; the receiver's
	late  uint64   // packets after one with a larger number
	lost  uint64
	ended chan error

	raw    int // with wired
	wire   *unix.SockaddrLinklayer
	frames [][]byte // by flow; nil: by the sockets of from
}

// newStream makes sockets. Receiving goes on until the test ends.
func newStream(t *testing.T, from, to *netnstest.NS, address string, flows int) *stream {
	t.Helper()
	s := &stream{T: t, next: make([]uint64, flows), seen: make([]uint64, flows), ended: make(chan error, 1)}
	at := &unix.SockaddrInet4{Port: port, Addr: [4]byte(net.ParseIP(address).To4())}
	socket := func() int {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	to.Do(func() {
		s.to = socket()
		wait := unix.NsecToTimeval(int64(100 * time.Millisecond))
		if err := errors.Join(unix.Bind(s.to, at), unix.SetsockoptInt(s.to, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
			unix.SetsockoptTimeval(s.to, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)); err != nil {
			t.Fatal(err)
		}
	})
	from.Do(func() {
		for range flows {
			fd := socket()
			s.from = append(s.from, fd)
			if err := unix.Connect(fd, at); err != nil {
				t.Fatal(err)
			}
		}
	})
	var stop atomic.Bool
	go s.receives(&stop)
	t.Cleanup(func() {
		stop.Store(true)
		err := <-s.ended
		for _, fd := range append(s.from, s.to) {
			err = errors.Join(err, unix.Close(fd))
		}
		if err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *stream) receives(stop *atomic.Bool) {
	b := make([]byte, payload)
	for !stop.Load() {
		n, _, err := unix.Recvfrom(s.to, b, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n != payload {
			s.ended <- errors.Join(err, errors.New("an odd packet"))
			return
		}
		flow, number := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint64(b[4:])
		if number < s.seen[flow] {
			s.late++
		} else {
			s.seen[flow] = number + 1
		}
		s.got.Add(1)
	}
	s.ended <- nil
}

// wired has the flows' packets come out of node a's tunnel without a's part in it: the
// machine is slow, and it is the way behind the wire that is tested.
func (s *stream) wired(l *lab) {
	s.Helper()
	mac := func(ns *netnstest.NS, device string) []byte {
		at, err := ns.Netlink().LinkByName(device)
		if err != nil {
			s.Fatal(device, err)
		}
		return at.Attrs().HardwareAddr
	}
	device, err := l.a.ns.Netlink().LinkByName("eth0")
	if err != nil {
		s.Fatal(err)
	}
	l.a.ns.Do(func() {
		// It receives nothing: that takes a protocol.
		s.raw, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			s.Fatal(err)
		}
		s.Cleanup(func() { unix.Close(s.raw) })
		if err := unix.SetsockoptInt(s.raw, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
			s.Fatal(err)
		}
	})
	s.wire = &unix.SockaddrLinklayer{Ifindex: device.Attrs().Index, Halen: 6}
	for flow, fd := range s.from {
		from, err := unix.Getsockname(fd)
		if err != nil {
			s.Fatal(err)
		}
		source := uint16(from.(*unix.SockaddrInet4).Port)
		f := datagram(mac(l.b.ns, "fx1"), mac(l.a.ns, "fx1"), addressC1, addressC2, source, port, make([]byte, payload))
		f = append([]byte{8, 0, 0, 0, 0, 0, 1, 0}, f...) // VXLAN, VNI 1
		s.frames = append(s.frames, datagram(mac(l.b.ns, "eth0"), mac(l.a.ns, "eth0"), l.a.address, l.b.address, 50000+uint16(flow), 4789, f))
	}
}

// datagram is a frame with UDP in it, without a checksum.
func datagram(toMAC, fromMAC []byte, from, to string, source, destination uint16, content []byte) []byte {
	f := append(append([]byte{}, toMAC...), fromMAC...)
	f = append(f, 8, 0, 0x45, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(28+len(content)))
	f = append(f, 0, 0, 0x40, 0, 64, unix.IPPROTO_UDP, 0, 0)
	f = append(append(f, net.ParseIP(from).To4()...), net.ParseIP(to).To4()...)
	var sum uint32
	for i := 14; i < 34; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(f[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(f[24:], ^uint16(sum&0xffff+sum>>16))
	for _, word := range []uint16{source, destination, uint16(8 + len(content)), 0} {
		f = binary.BigEndian.AppendUint16(f, word)
	}
	return append(f, content...)
}

// put sends one packet.
func (s *stream) put(flow int, b []byte) error {
	if s.frames == nil {
		return unix.Sendto(s.from[flow], b, 0, nil)
	}
	f := s.frames[flow]
	copy(f[len(f)-payload:], b)
	return unix.Sendto(s.raw, f, 0, s.wire)
}

// sends so many packets of each flow, flow by flow, and returns when all that come have
// come. After each of these it does what it is told.
func (s *stream) sends(each int, after func()) {
	s.Helper()
	b := make([]byte, payload)
	for flow := range s.from {
		for range each {
			s.awaits(windows)
			binary.LittleEndian.PutUint32(b, uint32(flow))
			binary.LittleEndian.PutUint64(b[4:], s.next[flow])
			s.next[flow]++
			if err := s.put(flow, b); err != nil {
				s.Fatal(err)
			}
			s.sent++
			if after != nil {
				after()
			}
		}
	}
	s.awaits(1)
}

// settles sends packets one by one until their flows are known: where this machine is slow,
// first packets of a flow may wait longer than the programs think.
func (s *stream) settles() {
	s.Helper()
	for range 5 {
		for flow := range s.from {
			b := make([]byte, payload)
			binary.LittleEndian.PutUint32(b, uint32(flow))
			binary.LittleEndian.PutUint64(b[4:], s.next[flow])
			s.next[flow]++
			if err := s.put(flow, b); err != nil {
				s.Fatal(err)
			}
			s.sent++
			s.awaits(1)
		}
	}
}

// awaits returns when fewer than n are under way.
func (s *stream) awaits(n uint64) {
	last, since := s.got.Load(), time.Now()
	for s.sent-s.lost-s.got.Load() >= n {
		if got := s.got.Load(); got != last {
			last, since = got, time.Now()
		} else if time.Since(since) > longest {
			s.lost = s.sent - s.got.Load()
			return
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 50_000}, nil)
	}
}
