package netnstest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// Dial connects from the namespace to an address of literals, such as 10.0.0.2:7, and
// gives up after timeout. The connection is closed with the test at the latest.
func (ns *NS) Dial(network, address string, timeout time.Duration) (net.Conn, error) {
	ns.t.Helper()
	c, err := ns.lab.Dial(network, address, timeout)
	if err == nil {
		ns.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// Listen listens for a stream network in the namespace until the test ends.
func (ns *NS) Listen(network, address string) net.Listener {
	ns.t.Helper()
	l, err := ns.lab.Listen(network, address)
	ns.must(err)
	ns.t.Cleanup(func() { l.Close() })
	return l
}

// ListenPacket opens a datagram socket in the namespace until the test ends.
func (ns *NS) ListenPacket(network, address string) net.PacketConn {
	ns.t.Helper()
	c, err := ns.lab.ListenPacket(network, address)
	ns.must(err)
	ns.t.Cleanup(func() { c.Close() })
	return c
}

// Echo serves a tcp* or udp* address in the namespace until the test ends: what comes
// is sent back. It returns the address with the port that was chosen for port 0.
func (ns *NS) Echo(network, address string) string {
	ns.t.Helper()
	e, err := ns.lab.Echo(network, address)
	ns.must(err)
	ns.t.Cleanup(func() { e.Close() })
	return e.Address
}

// Try sends a few random bytes to an echo server and waits for them to come back. A
// datagram is sent again every 100 ms. After timeout it says os.ErrDeadlineExceeded.
func (ns *NS) Try(network, address string, timeout time.Duration) error {
	ns.t.Helper()
	end := time.Now().Add(timeout)
	c, err := ns.Dial(network, address, timeout)
	if errors.Is(err, context.DeadlineExceeded) { // of package net, which has two
		return errors.Join(os.ErrDeadlineExceeded, err)
	}
	if err != nil {
		return err
	}
	defer c.Close()
	sent, got := make([]byte, 16), make([]byte, 16)
	_, _ = rand.Read(sent)
	for {
		if _, err := c.Write(sent); err != nil {
			return fmt.Errorf("send to %s: %w", address, err)
		}
		deadline := end
		if again := time.Now().Add(100 * time.Millisecond); strings.HasPrefix(network, "udp") && again.Before(end) {
			deadline = again
		}
		_ = c.SetReadDeadline(deadline)
		_, err := io.ReadFull(c, got)
		switch {
		case err == nil && bytes.Equal(sent, got):
			return nil
		case err == nil:
			return fmt.Errorf("the echo from %s differs", address)
		case errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(end):
		default:
			return fmt.Errorf("the echo from %s: %w", address, err)
		}
	}
}
