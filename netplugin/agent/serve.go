package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/protocol"
)

// Serve answers calls of the protocol on l until ctx is done, then finishes those under
// way. It closes l.
func (a *Agent) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var calls sync.WaitGroup
	defer calls.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			// Descriptors or memory are short: that passes.
			log.G(ctx).WithError(err).Warn("accept a call of the plugin; trying again")
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		calls.Go(func() {
			defer conn.Close()
			if err := a.answer(ctx, conn.(*net.UnixConn)); err != nil {
				log.G(ctx).WithError(err).Warn("answer the plugin")
			}
		})
	}
}

func (a *Agent) answer(ctx context.Context, conn *net.UnixConn) error {
	// Who hasn't said what it wants when the agent stops isn't waited for. A call that has
	// begun is finished.
	hurry := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })
	text, namespace, err := receive(conn)
	hurry()
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	if namespace != nil {
		defer namespace.Close()
	}
	output, ok := a.Handle(ctx, text, namespace)
	status := byte('0')
	if !ok {
		status = '1'
	}
	_, err = conn.Write(append([]byte{status}, output...))
	return err
}

// receive reads a request and the descriptor that may come with it. One that is too large
// is cut short, by a byte too late for anybody to take it for whole.
func receive(conn *net.UnixConn) ([]byte, *os.File, error) {
	buffer := make([]byte, 16<<10)
	oob := make([]byte, unix.CmsgSpace(4))
	n, m, _, _, err := conn.ReadMsgUnix(buffer, oob)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	namespace, err := descriptor(oob[:m])
	if err != nil {
		return nil, nil, err
	}
	rest, err := io.ReadAll(io.LimitReader(conn, int64(protocol.MaxRequest+1-n)))
	if err != nil {
		if namespace != nil {
			namespace.Close()
		}
		return nil, nil, err
	}
	// Who is cut off while writing does not read the answer.
	_, _ = io.CopyN(io.Discard, conn, protocol.MaxRequest)
	return append(buffer[:n], rest...), namespace, nil
}

// descriptor is the one of a message, nil if it has none.
func descriptor(oob []byte) (*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // not of this kind
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "namespace"))
		}
	}
	if len(files) == 0 {
		return nil, nil
	}
	for _, f := range files[1:] {
		f.Close()
	}
	return files[0], nil
}
