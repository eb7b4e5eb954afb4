package protocol

import (
	"errors"
	"syscall"
)

// ErrNoAgent is a call that nobody answered: no agent listens, or it went before it
// answered. What it was asked for may have been done.
var ErrNoAgent = errors.New("the agent falcond does not answer")

// Call sends a request to the agent at socket, with the descriptor namespace unless that
// is negative, and returns its answer.
func Call(socket string, request []byte, namespace int) (output []byte, ok bool, err error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, false, err
	}
	defer syscall.Close(fd)
	if err := retry(func() error { return syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket}) }); err != nil {
		return nil, false, ErrNoAgent
	}
	if err := send(fd, request, namespace); err != nil {
		return nil, false, ErrNoAgent
	}
	reply, err := readAll(fd)
	if err != nil || len(reply) == 0 {
		return nil, false, ErrNoAgent
	}
	return reply[1:], reply[0] == '0', nil
}

func send(fd int, request []byte, namespace int) error {
	var rights []byte
	if namespace >= 0 {
		rights = syscall.UnixRights(namespace)
	}
	for len(request) > 0 {
		var n int
		err := retry(func() (err error) {
			n, err = syscall.SendmsgN(fd, request, rights, nil, syscall.MSG_NOSIGNAL)
			return err
		})
		if err != nil {
			return err
		}
		request, rights = request[n:], nil
	}
	return syscall.Shutdown(fd, syscall.SHUT_WR)
}

func readAll(fd int) ([]byte, error) {
	buffer := make([]byte, 0, 4096)
	for {
		if len(buffer) == cap(buffer) {
			buffer = append(buffer, make([]byte, cap(buffer))...)[:len(buffer)]
		}
		var n int
		err := retry(func() (err error) {
			n, err = syscall.Read(fd, buffer[len(buffer):cap(buffer)])
			return err
		})
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return buffer, nil
		}
		buffer = buffer[:len(buffer)+n]
	}
}

// retry does what a signal interrupted again.
func retry(f func() error) error {
	for {
		if err := f(); err != syscall.EINTR {
			return err
		}
	}
}
