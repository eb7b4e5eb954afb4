package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/network/node"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	"github.com/peregrine-dev/peregrine/netplugin/overlay"
)

// What is on the wire between nodes, to the bit, when no NIC completes checksums.
func TestClusterOnTheWire(t *testing.T) {
	t.Parallel()
	underlays(t, func(t *testing.T, v6 bool) {
		c := newCluster(t, 2, v6)
		for _, n := range c.nodes {
			noOffload(t, n.NS, "eth0")
		}
		c.start()
		a, b := c.contain(1, "falcon", "a"), c.contain(2, "falcon", "b")
		wire := capture(t, c.sw, "p0")
		for j, echo := range b.echo {
			conn, err := a.NS.Dial([]string{"tcp", "udp"}[j%2], echo, patience)
			if err != nil {
				t.Fatal(err)
			}
			control(t, conn, func(fd int) error {
				if j < 2 {
					return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, traffic)
				}
				return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, traffic)
			})
			text := []byte(fmt.Sprintf("text %d of odd length", j))
			if _, err := conn.Write(text); err != nil {
				t.Fatal(err)
			}
			for _, reply := range []bool{false, true} {
				examine(t, wire.find(text, reply), c.nodes, []*member{a, b}, j, reply)
			}
			conn.Close()
		}
		// What TCP puts together for the NIC to segment is as right when none does.
		for i := range 2 {
			transfer(t, a.NS, b.NS, b.Address(i), 1<<20)
		}
		leave(a, b)
	})
}

// traffic is a traffic class: expedited forwarding (RFC 3246), and ECT(0) (RFC 3168), but
// TCP keeps those two bits to itself.
const traffic = 46<<2 | 2

// examine looks at a packet from members[0] to members[1], or, if reply, the other way.
func examine(t *testing.T, frame []byte, nodes []*node.Node, members []*member, j int, reply bool) {
	t.Helper()
	what := fmt.Sprintf("conversation %d, reply %t", j, reply)
	if reply {
		nodes, members = []*node.Node{nodes[1], nodes[0]}, []*member{members[1], members[0]}
	}
	outer, err := parse(frame)
	if err != nil {
		t.Errorf("%s: %v: %x", what, err, frame)
		return
	}
	from, to := nodes[0].Config.Address, nodes[1].Config.Address
	if outer.src != from || outer.dst != to || outer.protocol != unix.IPPROTO_UDP {
		t.Errorf("%s: it is from %s to %s, protocol %d", what, outer.src, outer.dst, outer.protocol)
	}
	if err := outer.checksums(); err != nil {
		t.Errorf("%s: outer: %v", what, err)
	}
	if outer.ttl != 64 {
		t.Errorf("%s: outer TTL %d", what, outer.ttl)
	}
	if port := binary.BigEndian.Uint16(outer.transport[2:]); port != 4789 {
		t.Errorf("%s: to port %d", what, port)
	}
	if port := binary.BigEndian.Uint16(outer.transport); port < 32768 {
		t.Errorf("%s: from port %d, which flows are not told apart by", what, port)
	}
	if got, want := outer.transport[8:16], []byte{8, 0, 0, 0, 0, 0, 1, 0}; !bytes.Equal(got, want) {
		t.Errorf("%s: VXLAN header %x, want %x", what, got, want)
	}

	frame = outer.transport[16:]
	macs := slices.Concat(overlay.VTEPMAC(to, 1), overlay.VTEPMAC(from, 1))
	if !bytes.Equal(frame[:12], macs) {
		t.Errorf("%s: inner MACs %x, want %x", what, frame[:12], macs)
	}
	inner, err := parse(frame)
	if err != nil {
		t.Errorf("%s: inner: %v", what, err)
		return
	}
	src, dst := netip.MustParseAddr(members[0].Address(j/2)), netip.MustParseAddr(members[1].Address(j/2))
	if inner.src != src || inner.dst != dst {
		t.Errorf("%s: inner from %s to %s", what, inner.src, inner.dst)
	}
	if inner.ttl != 63 {
		t.Errorf("%s: inner TTL %d; one router was on the way", what, inner.ttl)
	}
	if err := inner.checksums(); err != nil {
		t.Errorf("%s: inner: %v", what, err)
	}
	want := traffic
	switch {
	case reply:
		want = 0 // echo servers don't care
	case j%2 == 0:
		want &^= 3
	}
	if int(inner.class) != want {
		t.Errorf("%s: inner traffic class %#x, want %#x", what, inner.class, want)
	}
	// Containers have no say in how the underlay queues; congestion is passed on (RFC 6040).
	if outer.class != inner.class&3 {
		t.Errorf("%s: outer traffic class %#x of inner %#x", what, outer.class, inner.class)
	}
}

// packet is of IPv4 or IPv6, without extension headers.
type packet struct {
	src, dst   netip.Addr
	class, ttl byte
	protocol   byte
	header     []byte // IPv4's
	transport  []byte
}

// parse reads an Ethernet frame.
func parse(frame []byte) (p packet, err error) {
	if len(frame) < 14+20 {
		return p, errors.New("it is too short")
	}
	kind, b := binary.BigEndian.Uint16(frame[12:]), frame[14:]
	switch {
	case kind == unix.ETH_P_IP:
		end := int(binary.BigEndian.Uint16(b[2:]))
		h := int(b[0]&15) * 4
		if end > len(b) || h < 20 || h > end {
			return p, errors.New("the lengths are wrong")
		}
		p = packet{class: b[1], ttl: b[8], protocol: b[9], header: b[:h], transport: b[h:end]}
		p.src, p.dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	case kind == unix.ETH_P_IPV6 && len(b) >= 40:
		end := 40 + int(binary.BigEndian.Uint16(b[4:]))
		if end > len(b) {
			return p, errors.New("the length is wrong")
		}
		p = packet{class: b[0]<<4 | b[1]>>4, protocol: b[6], ttl: b[7], transport: b[40:end]}
		p.src, p.dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	default:
		return p, fmt.Errorf("ethertype %#x", kind)
	}
	return p, nil
}

// checksums are right, and there.
func (p packet) checksums() error {
	if p.header != nil && sum(p.header) != 0xffff {
		return fmt.Errorf("IPv4 checksum %x", p.header[10:12])
	}
	if p.protocol == unix.IPPROTO_UDP && bytes.Equal(p.transport[6:8], []byte{0, 0}) {
		return errors.New("no UDP checksum")
	}
	if s := transportSum(p.src, p.dst, p.protocol, p.transport); s != 0xffff {
		return fmt.Errorf("the checksum of protocol %d is wrong, the sum is %#x", p.protocol, s)
	}
	return nil
}

// transportSum is the sum of a segment and its pseudo-header: 0xffff if the checksum in it
// is right (RFC 1071).
func transportSum(src, dst netip.Addr, protocol byte, segment []byte) uint16 {
	pseudo := slices.Concat(src.AsSlice(), dst.AsSlice(), []byte{0, protocol}, be16(uint16(len(segment))))
	return sum(append(pseudo, segment...))
}

func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// tap sees a link's packets.
type tap struct {
	t    *testing.T
	fd   int
	seen [][]byte // what find has passed over
}

// capture listens on a link, to both directions (packet(7)).
func capture(t *testing.T, ns *netnstest.NS, link string) *tap {
	t.Helper()
	all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
	at, err := ns.Netlink().LinkByName(link)
	if err != nil {
		t.Fatal(err)
	}
	c := &tap{t: t}
	ns.Do(func() { c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(c.fd) })
	err = errors.Join(
		unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: at.Attrs().Index}),
		unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(patience.Seconds())}),
	)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// find is the first frame from there that has a text in it; if reply, the first that came
// from elsewhere than the one before: what is slow to be answered, TCP sends again.
func (c *tap) find(text []byte, reply bool) []byte {
	c.t.Helper()
	buf := make([]byte, 65536)
	var before []byte
	for _, f := range c.seen {
		if bytes.Contains(f, text) {
			before = f
			break
		}
	}
	if before != nil && !reply {
		c.t.Fatalf("%q was seen before", text)
	}
	for {
		n, err := unix.Read(c.fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			c.t.Fatalf("wait for a packet with %q: %v", text, err)
		}
		frame := slices.Clone(buf[:n])
		c.seen = append(c.seen, frame)
		if bytes.Contains(frame, text) && (before == nil || !bytes.Equal(frame[6:12], before[6:12])) {
			return frame
		}
	}
}

// noOffload makes a link one that sends only what is complete: checksummed and segmented.
func noOffload(t *testing.T, ns *netnstest.NS, link string) {
	t.Helper()
	// ETHTOOL_STXCSUM, ETHTOOL_SSG, ETHTOOL_STSO, ETHTOOL_SGSO (include/uapi/linux/ethtool.h)
	for _, feature := range []uint32{0x17, 0x19, 0x1f, 0x24} {
		value := struct{ command, data uint32 }{feature, 0}
		request := struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [24 - unsafe.Sizeof(uintptr(0))]byte
		}{data: unsafe.Pointer(&value)}
		copy(request.name[:], link)
		var errno unix.Errno
		ns.Do(func() {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			_, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
		})
		if errno != 0 {
			t.Fatalf("turn offload %#x of %s off: %v", feature, link, errno)
		}
	}
}
