// Package unixsocket listens where a daemon of the bundle is found: on a socket of
// mode 0600 in a directory of mode 0700.
package unixsocket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// Listen listens at path. A listener that systemd holds for path is taken over: its
// callers wait while the daemon restarts. Else a socket that a dead process left there is replaced; one
// that somebody answers on, or a file that is no socket, is ErrFailedPrecondition.
// The caller closes the listener, which removes the socket.
func Listen(path string) (net.Listener, error) {
	inherited, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take over systemd's sockets: %w", err)
	}
	for _, l := range inherited {
		if l != nil && l.Addr().Network() == "unix" && l.Addr().String() == path {
			return l, nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("create the socket's directory: %w", err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func removeStale(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s is there and is no socket; move it away: %w", path, errdefs.ErrFailedPrecondition)
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("another process answers on %s; stop it first: %w", path, errdefs.ErrFailedPrecondition)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("try %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove a dead process's socket: %w", err)
	}
	return nil
}
