package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// lostAfter is when a packet that isn't answered is given up, and the next one is sent.
const lostAfter = 25 * time.Millisecond

// tripped is how long round trips took in microseconds: those that got lost, as long as they
// were waited for.
type tripped struct {
	Series
	lost int
}

// trips sends a message of size bytes back and forth for a time, one after the other. near
// and far are sockets that are connected to each other; who asks is on a core, and who
// answers on the far node's.
func trips(near, far, core, size int, d time.Duration) (took tripped, err error) {
	if err := errors.Join(patient(near, lostAfter), patient(far, lostAfter)); err != nil {
		return took, err
	}
	var g errgroup.Group
	var stop atomic.Bool
	g.Go(func() error { return pinned(farCore, true, func() error { return answer(far, &stop) }) })
	err = pinned(core, true, func() (err error) {
		took, err = ask(near, size, d)
		return err
	})
	stop.Store(true)
	err = errors.Join(err, g.Wait())
	return took, err
}

// ask sends the messages. The first byte tells an answer from a late one.
func ask(fd, size int, d time.Duration) (took tripped, err error) {
	took.Series = make(Series, 0, 1<<15)
	out, in := make([]byte, size), make([]byte, size)
	for began := time.Now(); ; {
		sent := time.Now()
		if sent.Sub(began) >= d {
			return took, nil
		}
		out[0]++
		if _, err := unix.Write(fd, out); err != nil && !errors.Is(err, unix.EINTR) {
			return took, fmt.Errorf("send a message: %w", err)
		}
		switch answered, err := hear(fd, in, out[0]); {
		case err != nil:
			return took, err
		case !answered:
			took.lost++
		}
		took.Series = append(took.Series, microseconds(time.Since(sent)))
	}
}

// hear waits for the answer that begins with a byte. It reports whether it came in time.
func hear(fd int, in []byte, first byte) (bool, error) {
	for {
		n, err := unix.Read(fd, in)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("receive a message: %w", err)
		case n == 0:
			return false, errors.New("the connection was closed")
		case in[0] == first:
			return true, nil
		}
	}
}

// answer sends messages back until it is to stop.
func answer(fd int, stop *atomic.Bool) error {
	buffer := make([]byte, 2048)
	for !stop.Load() {
		n, err := unix.Read(fd, buffer)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("receive a message: %w", err)
		case n == 0:
			return nil
		}
		if _, err := unix.Write(fd, buffer[:n]); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("answer a message: %w", err)
		}
	}
	return nil
}

// patient bounds how long a call waits for a socket.
func patient(fd int, d time.Duration) error {
	limit := unix.NsecToTimeval(d.Nanoseconds())
	return errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
	)
}

// connect connects a container to a port of an address by TCP. Calls of the socket block.
func (l lodger) connect(to netip.AddrPort) (fd int, err error) {
	err = l.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		patient(fd, patience),
		uninterrupted(func() error {
			return unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
		}),
	)
	if err != nil {
		return -1, errors.Join(fmt.Errorf("connect to %s: %w", to, err), unix.Close(fd))
	}
	return fd, nil
}

// connection is a TCP connection between two containers: two sockets to close.
func connection(a, b lodger) (near, far int, err error) {
	var listener int
	err = b.Do(func() (err error) {
		listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, -1, err
	}
	defer unix.Close(listener)
	if err := errors.Join(
		patient(listener, patience),
		unix.Bind(listener, &unix.SockaddrInet4{Addr: b.address.As4()}),
		unix.Listen(listener, 1),
	); err != nil {
		return -1, -1, err
	}
	bound, err := unix.Getsockname(listener)
	if err != nil {
		return -1, -1, err
	}
	near, err = a.connect(netip.AddrPortFrom(b.address, uint16(bound.(*unix.SockaddrInet4).Port)))
	if err != nil {
		return -1, -1, err
	}
	err = uninterrupted(func() (err error) {
		far, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC)
		return err
	})
	if err == nil {
		err = errors.Join(unix.SetsockoptInt(far, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1), patient(far, patience))
		if err == nil {
			return near, far, nil
		}
		err = errors.Join(err, unix.Close(far))
	}
	return -1, -1, errors.Join(err, unix.Close(near))
}

// streamed sends over a TCP connection for a time, and returns MiB/s from the first to the
// last byte that arrives.
func streamed(near, far int, d time.Duration) (rate float64, err error) {
	if err := errors.Join(patient(near, patience), patient(far, patience)); err != nil {
		return 0, err
	}
	var g errgroup.Group
	g.Go(func() error {
		return pinned(nearCore, false, func() error {
			block := make([]byte, 128<<10)
			for began := time.Now(); time.Since(began) < d; {
				if _, err := unix.Write(near, block); err != nil && !errors.Is(err, unix.EINTR) {
					return errors.Join(fmt.Errorf("send a stream: %w", err), unix.Shutdown(near, unix.SHUT_WR))
				}
			}
			return unix.Shutdown(near, unix.SHUT_WR)
		})
	})
	g.Go(func() error {
		return pinned(farCore, false, func() error {
			buffer := make([]byte, 256<<10)
			var got int64
			began := time.Now()
			for {
				n, err := unix.Read(far, buffer)
				switch {
				case errors.Is(err, unix.EINTR):
					continue
				case err != nil:
					return fmt.Errorf("receive a stream: %w", err)
				case n == 0:
					rate = float64(got) / (1 << 20) / time.Since(began).Seconds()
					return nil
				}
				got += int64(n)
			}
		})
	})
	return rate, g.Wait()
}
