package fastpath

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Frames are built by hand, with whatever is to be wrong in them.

// ipHeader is one of the addresses' family.
type ipHeader struct {
	source, destination netip.Addr
	tos, ttl, protocol  byte
	fragment            uint16 // flags and offset
	options             []byte // IPv6: extension headers, with the last's next header in it
	length              int    // is added to the right one
	sum                 uint16 // is added to the right one
}

func (h ipHeader) bytes(payload []byte) []byte {
	payload = slices.Concat(h.options, payload)
	if h.source.Is6() {
		b := []byte{0x60 | h.tos>>4, h.tos << 4, 0, 0, 0, 0, h.protocol, h.ttl}
		binary.BigEndian.PutUint16(b[4:], uint16(len(payload)+h.length))
		return slices.Concat(b, h.source.AsSlice(), h.destination.AsSlice(), payload)
	}
	b := make([]byte, 20)
	b[0], b[1], b[8], b[9] = 0x45+byte(len(h.options)/4), h.tos, h.ttl, h.protocol
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)+h.length))
	binary.BigEndian.PutUint16(b[6:], h.fragment)
	copy(b[12:], h.source.AsSlice())
	copy(b[16:], h.destination.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^sum(slices.Concat(b, h.options))+h.sum)
	return append(b, payload...)
}

// udpHeader is a datagram's.
type udpHeader struct {
	source, destination uint16
	length              int    // is added to the right one
	none                bool   // no checksum
	sum                 uint16 // is added to the right one
}

func (u udpHeader) bytes(h ipHeader, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, u.source)
	b = binary.BigEndian.AppendUint16(b, u.destination)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)+u.length))
	b = append(append(b, 0, 0), payload...)
	if !u.none {
		check := ^sum(slices.Concat(pseudo(h.source, h.destination, protoUDP, len(b)), b))
		if check == 0 {
			check = 0xffff
		}
		binary.BigEndian.PutUint16(b[6:], check+u.sum)
	}
	return b
}

// frame is an Ethernet frame with a datagram, or with a segment of TCP without data if the
// IP header says TCP.
type frame struct {
	to, from mac
	ip       ipHeader
	udp      udpHeader
	payload  []byte
	tag      []byte // of a VLAN
}

func (f frame) bytes() []byte {
	payload := f.payload
	if f.ip.protocol == protoTCP {
		payload = tcp(f.ip, f.udp)
	} else {
		payload = f.udp.bytes(f.ip, payload)
	}
	kind := []byte{8, 0}
	if f.ip.source.Is6() {
		kind = []byte{0x86, 0xdd}
	}
	return slices.Concat(f.to[:], f.from[:], f.tag, kind, f.ip.bytes(payload))
}

func tcp(h ipHeader, ports udpHeader) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, ports.source)
	binary.BigEndian.PutUint16(b[2:], ports.destination)
	b[12], b[13], b[14] = 0x50, 0x10, 0xff
	binary.BigEndian.PutUint16(b[16:], ^sum(slices.Concat(pseudo(h.source, h.destination, protoTCP, len(b)), b)))
	return b
}

// tunnelled is a frame in VXLAN.
type tunnelled struct {
	outer    frame
	flags    uint32
	vni      uint32
	reserved byte
	inner    frame
}

func (t tunnelled) bytes() []byte {
	b := binary.BigEndian.AppendUint32(nil, t.flags)
	b = binary.BigEndian.AppendUint32(b, t.vni<<8|uint32(t.reserved))
	t.outer.payload = append(b, t.inner.bytes()...)
	return t.outer.bytes()
}

// repair makes lengths and checksums of a frame in VXLAN right, as far as it can be read, so
// that what else is wrong with it matters.
func repair(b []byte) {
	payload := repairIP(b, 14, 12)
	if payload < 0 || len(b) < payload+16+14 {
		return
	}
	inside := payload + 16
	if at := repairIP(b, inside+14, inside+12); at >= 0 && len(b) >= at+8 {
		repairUDP(b, inside+14, at)
	}
	repairUDP(b, 14, payload)
}

// repairIP returns where the payload begins, or a negative number.
func repairIP(b []byte, at, kind int) int {
	switch {
	case len(b) >= at+20 && b[kind] == 8 && b[kind+1] == 0:
		n := int(b[at]&15) * 4
		if n < 20 || len(b) < at+n {
			return -1
		}
		binary.BigEndian.PutUint16(b[at+2:], uint16(len(b)-at))
		b[at+10], b[at+11] = 0, 0
		binary.BigEndian.PutUint16(b[at+10:], ^sum(b[at:at+n]))
		return at + n
	case len(b) >= at+40 && b[kind] == 0x86 && b[kind+1] == 0xdd:
		binary.BigEndian.PutUint16(b[at+4:], uint16(len(b)-at-40))
		return at + 40
	}
	return -1
}

func repairUDP(b []byte, ip, at int) {
	source, destination := b[ip+12:ip+16], b[ip+16:ip+20]
	if b[ip]>>4 == 6 {
		source, destination = b[ip+8:ip+24], b[ip+24:ip+40]
	}
	from, _ := netip.AddrFromSlice(source)
	to, _ := netip.AddrFromSlice(destination)
	binary.BigEndian.PutUint16(b[at+4:], uint16(len(b)-at))
	if b[at+6] == 0 && b[at+7] == 0 {
		return // it has none
	}
	b[at+6], b[at+7] = 0, 0
	check := ^sum(slices.Concat(pseudo(from, to, protoUDP, len(b)-at), b[at:]))
	if check == 0 {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(b[at+6:], check)
}
