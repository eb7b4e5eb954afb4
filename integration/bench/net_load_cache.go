package bench

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// A load of memcached like that of data caching in CloudSuite: 9 in 10 requests get a value
// of 1 KiB, the others set one. They come at fixed times, whether or not those before are
// answered, and their latency is from when they should have been sent.
const (
	cacheConns = 8
	cacheKeys  = 1000
	cacheRate  = 4000 // requests per second
	valueSize  = 1024
	// keyForm makes all keys of one length, so that answers are.
	keyForm = "key-%08d"
)

var (
	stored    = []byte("STORED\r\n")
	valueHead = fmt.Sprintf("VALUE "+keyForm+" 0 %d\r\n", 0, valueSize)
	gotten    = len(valueHead) + valueSize + len("\r\nEND\r\n")
)

// cacheLoad is a client of memcached, for one run. Close it.
type cacheLoad struct {
	conns  []*cacheConn
	seed   uint64
	buffer [64 << 10]byte
}

// cacheConn is a connection, with the requests that are not sent yet and those whose answers
// are awaited, in their order.
type cacheConn struct {
	fd      int
	out     []byte
	awaited []request
	in      []byte // of the first answer, so far
}

type request struct {
	due time.Time
	set bool
}

// newCacheLoad connects a container to a server.
func newCacheLoad(from, at lodger) (c *cacheLoad, err error) {
	c = &cacheLoad{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	for range cacheConns {
		fd, err := from.connect(netip.AddrPortFrom(at.address, memcachedPort))
		if err != nil {
			return nil, err
		}
		c.conns = append(c.conns, &cacheConn{fd: fd})
		if err := unix.SetNonblock(fd, true); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Close closes the connections.
func (c *cacheLoad) Close() (err error) {
	for _, conn := range c.conns {
		err = errors.Join(err, unix.Close(conn.fd))
	}
	return err
}

// fillCache stores all values in a server.
func fillCache(from, at lodger) error {
	fd, err := from.connect(netip.AddrPortFrom(at.address, memcachedPort))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	answer := make([]byte, len(stored))
	for key := range cacheKeys {
		request := set(key)
		err := uninterrupted(func() error {
			_, err := unix.Write(fd, request)
			return err
		})
		if err != nil {
			return fmt.Errorf("fill memcached: %w", err)
		}
		if n, err := read(fd, answer); err != nil || !bytes.Equal(answer[:n], stored) {
			return fmt.Errorf("fill memcached: it said %q: %w", answer[:max(n, 0)], err)
		}
	}
	return nil
}

func set(key int) []byte {
	head := fmt.Sprintf("set "+keyForm+" 0 0 %d\r\n", key, valueSize)
	return append(append([]byte(head), bytes.Repeat([]byte{'v'}, valueSize)...), '\r', '\n')
}

func get(key int) []byte { return fmt.Appendf(nil, "get "+keyForm+"\r\n", key) }

// givenUp is how long after the last request answers are waited for.
const givenUp = 250 * time.Millisecond

// run asks for a time, and waits a little for the last answers. It returns latencies in
// microseconds, until the answer or until it was no longer waited for.
func (c *cacheLoad) run(d time.Duration) (took Series, err error) {
	err = pinned(nearCore, true, func() error {
		total := int(d.Seconds() * cacheRate)
		took = make(Series, 0, total)
		began := time.Now()
		end := began.Add(d + givenUp)
		for sent := 0; len(took) < total; {
			now := time.Now()
			if now.After(end) {
				break
			}
			next := end
			if sent < total {
				next = began.Add(time.Duration(sent) * time.Second / cacheRate)
			}
			if !now.Before(next) {
				c.ask(sent, next)
				sent++
				continue
			}
			if err := c.exchange(next.Sub(now), &took); err != nil {
				return err
			}
		}
		for _, conn := range c.conns {
			for _, r := range conn.awaited {
				took = append(took, microseconds(time.Since(r.due)))
			}
		}
		return nil
	})
	return took, err
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// ask makes a request, by the connections' turns.
func (c *cacheLoad) ask(i int, due time.Time) {
	c.seed = c.seed*6364136223846793005 + 1442695040888963407
	key, isSet := int(c.seed>>33)%cacheKeys, i%10 == 9
	text := get(key)
	if isSet {
		text = set(key)
	}
	conn := c.conns[i%len(c.conns)]
	conn.out = append(conn.out, text...)
	conn.awaited = append(conn.awaited, request{due, isSet})
}

// exchange sends what there is to send, and takes answers, for so long as pause at most.
func (c *cacheLoad) exchange(pause time.Duration, took *Series) error {
	var polled [cacheConns]unix.PollFd
	for i, conn := range c.conns {
		if err := conn.flush(); err != nil {
			return err
		}
		polled[i] = unix.PollFd{Fd: int32(conn.fd), Events: unix.POLLIN}
		if len(conn.out) > 0 {
			polled[i].Events |= unix.POLLOUT
		}
	}
	limit := unix.NsecToTimespec(pause.Nanoseconds())
	if _, err := unix.Ppoll(polled[:], &limit, nil); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for memcached: %w", err)
	}
	for i, conn := range c.conns {
		if polled[i].Revents&^unix.POLLOUT == 0 {
			continue
		}
		n, err := unix.Read(conn.fd, c.buffer[:])
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return fmt.Errorf("memcached closed a connection: %w", err)
		}
		now := time.Now()
		done, err := conn.take(c.buffer[:n])
		if err != nil {
			return err
		}
		for _, r := range done {
			*took = append(*took, microseconds(now.Sub(r.due)))
		}
	}
	return nil
}

// flush sends what the socket has room for.
func (c *cacheConn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	n, err := unix.Write(c.fd, c.out)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask memcached: %w", err)
	}
	c.out = c.out[:copy(c.out, c.out[n:])]
	return nil
}

// take reads answers out of what came, and returns the requests they are for.
func (c *cacheConn) take(came []byte) (done []request, err error) {
	c.in = append(c.in, came...)
	for len(c.awaited) > 0 {
		size, want := gotten, []byte("VALUE ")
		if c.awaited[0].set {
			size, want = len(stored), stored
		}
		if len(c.in) >= len(want) && !bytes.HasPrefix(c.in, want) {
			return nil, fmt.Errorf("memcached answered %.60q, want %q", c.in, want)
		}
		if len(c.in) < size {
			return done, nil
		}
		done = append(done, c.awaited[0])
		c.awaited = c.awaited[1:]
		c.in = c.in[size:]
	}
	if len(c.in) > 0 {
		return nil, fmt.Errorf("memcached said %.60q unasked", c.in)
	}
	return done, nil
}
