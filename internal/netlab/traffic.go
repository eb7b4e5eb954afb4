package netlab

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// Dial connects from the namespace to an address of literals, such as 10.0.0.2:7, and
// gives up after timeout. The caller closes the connection.
func (ns *NS) Dial(network, address string, timeout time.Duration) (c net.Conn, err error) {
	// A dial of literals makes its socket on the calling thread.
	err = ns.Do(func() (err error) {
		c, err = net.DialTimeout(network, address, timeout)
		return err
	})
	return c, err
}

// Listen listens for a stream network in the namespace. The caller closes the listener.
func (ns *NS) Listen(network, address string) (l net.Listener, err error) {
	err = ns.Do(func() (err error) {
		l, err = new(net.ListenConfig).Listen(context.Background(), network, address)
		return err
	})
	return l, err
}

// ListenPacket opens a datagram socket in the namespace. The caller closes it.
func (ns *NS) ListenPacket(network, address string) (c net.PacketConn, err error) {
	err = ns.Do(func() (err error) {
		c, err = new(net.ListenConfig).ListenPacket(context.Background(), network, address)
		return err
	})
	return c, err
}

// Echo is a server that sends back what comes.
type Echo struct {
	Address string // with the port that was chosen for port 0

	listener io.Closer
	wg       sync.WaitGroup
	mu       sync.Mutex
	closed   bool
	conns    map[net.Conn]bool
}

// Echo serves a tcp* or udp* address in the namespace. The caller closes the server.
func (ns *NS) Echo(network, address string) (*Echo, error) {
	e := &Echo{conns: map[net.Conn]bool{}}
	if strings.HasPrefix(network, "udp") {
		c, err := ns.ListenPacket(network, address)
		if err != nil {
			return nil, err
		}
		e.Address, e.listener = c.LocalAddr().String(), c
		e.wg.Go(func() { echoPackets(c) })
		return e, nil
	}
	l, err := ns.Listen(network, address)
	if err != nil {
		return nil, err
	}
	e.Address, e.listener = l.Addr().String(), l
	e.wg.Go(func() { e.accept(l) })
	return e, nil
}

// Close ends the server and its connections.
func (e *Echo) Close() error {
	err := e.listener.Close()
	e.mu.Lock()
	e.closed = true
	for c := range e.conns {
		c.Close()
	}
	e.mu.Unlock()
	e.wg.Wait()
	return err
}

func (e *Echo) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		e.mu.Lock()
		if e.closed {
			c.Close()
		}
		e.conns[c] = true
		e.mu.Unlock()
		e.wg.Go(func() {
			_, _ = io.Copy(c, c)
			c.Close()
			e.mu.Lock()
			delete(e.conns, c)
			e.mu.Unlock()
		})
	}
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
