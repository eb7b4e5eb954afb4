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
	"sync"
	"time"
)

// Dial connects from the namespace to an address of literals, such as 10.0.0.2:7, and
// gives up after timeout. The connection is closed with the test at the latest.
func (ns *NS) Dial(network, address string, timeout time.Duration) (net.Conn, error) {
	ns.t.Helper()
	var c net.Conn
	var err error
	// A dial of literals makes its socket on the calling thread.
	ns.Do(func() { c, err = net.DialTimeout(network, address, timeout) })
	if err == nil {
		ns.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// Listen listens for a stream network in the namespace until the test ends.
func (ns *NS) Listen(network, address string) net.Listener {
	ns.t.Helper()
	var l net.Listener
	var err error
	ns.Do(func() { l, err = new(net.ListenConfig).Listen(context.Background(), network, address) })
	if err != nil {
		ns.t.Fatalf("listen on %s %s: %v", network, address, err)
	}
	ns.t.Cleanup(func() { l.Close() })
	return l
}

// ListenPacket opens a datagram socket in the namespace until the test ends.
func (ns *NS) ListenPacket(network, address string) net.PacketConn {
	ns.t.Helper()
	var c net.PacketConn
	var err error
	ns.Do(func() { c, err = new(net.ListenConfig).ListenPacket(context.Background(), network, address) })
	if err != nil {
		ns.t.Fatalf("listen on %s %s: %v", network, address, err)
	}
	ns.t.Cleanup(func() { c.Close() })
	return c
}

// Echo serves a tcp* or udp* address in the namespace until the test ends: what comes
// is sent back. It returns the address with the port that was chosen for port 0.
func (ns *NS) Echo(network, address string) string {
	ns.t.Helper()
	var wg sync.WaitGroup
	if strings.HasPrefix(network, "udp") {
		c := ns.ListenPacket(network, address)
		wg.Go(func() { echoPackets(c) })
		ns.t.Cleanup(func() { c.Close(); wg.Wait() })
		return c.LocalAddr().String()
	}
	l := ns.Listen(network, address)
	conns := make(map[net.Conn]bool)
	var mu sync.Mutex
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				_, _ = io.Copy(c, c)
				c.Close()
			})
		}
	})
	ns.t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

func echoPackets(c net.PacketConn) {
	buf := make([]byte, 65536)
	for {
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = c.WriteTo(buf[:n], from)
		}
	}
}

// Try sends a few random bytes to an echo server and waits for them to come back. A
// datagram is sent again every 100 ms. After timeout it says os.ErrDeadlineExceeded.
func (ns *NS) Try(network, address string, timeout time.Duration) error {
	ns.t.Helper()
	end := time.Now().Add(timeout)
	c, err := ns.Dial(network, address, timeout)
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
