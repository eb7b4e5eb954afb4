package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"github.com/peregrine-dev/peregrine/netplugin/protocol"
)

// Ask asks the agent whose directory root is how it is. Unlike the plugin's own client it
// gives up when ctx is done.
func Ask(ctx context.Context, root string) (*Report, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(root, protocol.Socket))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write(protocol.Encode([]string{"CNI_COMMAND=" + protocol.Report}, nil)); err != nil {
		return nil, err
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		return nil, err
	}
	reply, err := io.ReadAll(conn)
	if err != nil {
		return nil, err
	}
	if len(reply) == 0 || reply[0] != '0' {
		return nil, fmt.Errorf("it answered %.200q", reply)
	}
	r := &Report{}
	return r, json.Unmarshal(reply[1:], r)
}
