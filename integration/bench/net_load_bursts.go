package bench

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	// burst is how many packets come at once, as NICs tell of packets.
	burst = 32
	// payload is the bytes of a UDP packet without headers.
	payload = 64
)

// generator sends UDP packets, as many at once as are a burst: they are one packet until the
// switch splits it (UDP_SEGMENT). So a receiver is kept busy at little cost for the sender,
// and all at once, as behind a NIC.
type generator int

// generate makes a generator of a connected socket, which stays the caller's.
func generate(fd int) (generator, error) {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, payload); err != nil {
		return 0, fmt.Errorf("send packets in bursts: %w", err)
	}
	return generator(fd), nil
}

var burstData [burst * payload]byte

// emit sends a burst. It reports whether there was room for it.
func (g generator) emit() (bool, error) {
	_, err := unix.SendmsgN(int(g), burstData[:], nil, nil, unix.MSG_DONTWAIT)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNREFUSED):
		return false, nil
	}
	return false, fmt.Errorf("send a burst of packets: %w", err)
}
