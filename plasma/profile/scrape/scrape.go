// Package scrape reads what an application in a container measures of itself, as Prometheus text
// over HTTP.
package scrape

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// MaxBytes is how long an answer may be.
	MaxBytes = 1 << 20
	// Timeout is how long one may take.
	Timeout = time.Second
)

// Source is where the metrics are: an address and a path.
type Source struct {
	Address netip.AddrPort
	Path    string
}

// ParseSource reads ADDRESS:PORT/PATH. The address is a literal, or localhost or nothing for
// 127.0.0.1; the path may be missing, for /metrics. errdefs.ErrInvalidArgument: it is no such
// text.
func ParseSource(text string) (Source, error) {
	at, path, found := strings.Cut(text, "/")
	if !found {
		path = "metrics"
	}
	host, port, err := net.SplitHostPort(at)
	if host == "" || host == "localhost" {
		host = "127.0.0.1"
	}
	var address netip.AddrPort
	if err == nil {
		address, err = netip.ParseAddrPort(net.JoinHostPort(host, port))
	}
	if err == nil {
		_, err = http.NewRequest(http.MethodGet, "http://"+address.String()+"/"+path, nil)
	}
	if err == nil && (address.Port() == 0 || strings.ContainsAny(path, " #")) {
		err = errors.New("no port, or a path that is none")
	}
	if err != nil {
		return Source{}, fmt.Errorf("%q is no place of metrics such as 127.0.0.1:9100/metrics: %w: %w", text, err, errdefs.ErrInvalidArgument)
	}
	return Source{address, "/" + path}, nil
}

// Get asks once, in a network namespace or, if that is nil, in the caller's, and gives what Parse
// does. All of it runs on the calling goroutine, so that its cost can be measured.
func Get(ctx context.Context, namespace *os.File, s Source) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	v, err := get(ctx, namespace, s)
	if err != nil {
		return nil, fmt.Errorf("metrics of %s: %w", s.Address, err)
	}
	return v, nil
}

func get(ctx context.Context, namespace *os.File, s Source) (map[string]float64, error) {
	conn, err := dial(ctx, namespace, s.Address.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	// No http.Client: its transport has goroutines and connections that outlive a call, and
	// would dial in whatever namespace they are.
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Address.String()+s.Path, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	request.Close = true
	request.Header.Set("Accept", "text/plain;version=0.0.4")
	if err := request.Write(conn); err != nil {
		return nil, fmt.Errorf("ask: %w", unavailable(err))
	}
	limited := &io.LimitedReader{R: conn, N: MaxBytes + 1}
	response, err := http.ReadResponse(bufio.NewReader(limited), request)
	if err != nil {
		return nil, fmt.Errorf("its answer: %w", unavailable(err))
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s: %w", response.Status, errdefs.ErrUnavailable)
	}
	text, err := io.ReadAll(response.Body)
	switch {
	case limited.N == 0:
		return nil, fmt.Errorf("its answer has more than %d bytes: %w", MaxBytes, errdefs.ErrInvalidArgument)
	case err != nil:
		return nil, fmt.Errorf("its answer: %w", unavailable(err))
	}
	return Parse(bytes.NewReader(text))
}

// dial connects on a thread that is in the namespace meanwhile. The address has no name in it,
// so that no other goroutine makes the socket.
func dial(ctx context.Context, namespace *os.File, address string) (conn net.Conn, err error) {
	connect := func() (err error) {
		if conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", address); err != nil {
			return fmt.Errorf("connect: %w", unavailable(err))
		}
		return nil
	}
	if namespace == nil {
		return conn, connect()
	}
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("open this thread's network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("enter the container's network namespace: %w", err)
	}
	err = connect()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		// The thread stays locked to this goroutine, and ends with it.
		if conn != nil {
			conn.Close()
		}
		return nil, fmt.Errorf("return from the container's network namespace: %w", back)
	}
	runtime.UnlockOSThread()
	return conn, err
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable) }
