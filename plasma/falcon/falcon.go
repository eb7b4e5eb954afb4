// Package falcon asks the node's network agent, falcond, for a class for a container's packets,
// and what passed between containers. It speaks the protocol of the agent's socket, which
// docs/network.md names: the agent may be there or not, and be newer or older than this.
package falcon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/containerd/errdefs"
)

// Socket is where the agent listens.
const Socket = "/run/falcon/cni.sock"

// maxAnswer is how long an answer may be, in bytes: many more pairs than a node can have.
const maxAnswer = 64 << 20

// Classes of packets.
const (
	High   = "high"
	Normal = "normal"
	Low    = "low"
)

// Client asks the agent. It may be used by many goroutines. Where no agent listens all of it
// fails with errdefs.ErrUnavailable.
type Client struct {
	// Socket is where the agent listens.
	Socket string
	// Owner tells the reservations of this client from others'.
	Owner string
}

// Pair counts TCP and UDP from one container to another, as this node sees it, by what is
// counted from the IP header on. The counters don't run backwards, but begin again at 0 with
// a reboot.
type Pair struct {
	Network              string     `json:"network"`
	Source               netip.Addr `json:"source"`
	Destination          netip.Addr `json:"destination"`
	SourceContainer      string     `json:"sourceContainer"` // "" if it is on another node
	DestinationContainer string     `json:"destinationContainer"`
	SentPackets          uint64     `json:"sentPackets"`
	SentBytes            uint64     `json:"sentBytes"`
	ReceivedPackets      uint64     `json:"receivedPackets"`
	ReceivedBytes        uint64     `json:"receivedBytes"`
}

// Reserve gives a container's packets a class while it runs, instead of what this owner reserved
// before. errdefs.ErrNotFound: the agent has attached no such container.
func (c Client) Reserve(ctx context.Context, container, class string) error {
	return c.call(ctx, "RESERVE", map[string]string{"containerID": container, "class": class, "owner": c.Owner}, nil)
}

// Release ends what this owner reserved for a container; nothing is no error.
func (c Client) Release(ctx context.Context, container string) error {
	return c.call(ctx, "RELEASE", map[string]string{"containerID": container, "owner": c.Owner}, nil)
}

// Pairs lists what passed between containers, those with the most bytes first.
// errdefs.ErrUnavailable: nobody counts it on this node.
func (c Client) Pairs(ctx context.Context) ([]Pair, error) {
	var pairs []Pair
	return pairs, c.call(ctx, "PAIRS", nil, &pairs)
}

// call has the agent do a command, and reads its answer into one unless that is nil.
func (c Client) call(ctx context.Context, command string, question, answer any) error {
	text, err := c.exchange(ctx, command, question)
	if err == nil {
		err = decode(text, answer)
	}
	if err != nil {
		return fmt.Errorf("ask falcond for %s: %w", command, err)
	}
	return nil
}

// exchange sends a command and returns the whole answer.
func (c Client) exchange(ctx context.Context, command string, question any) ([]byte, error) {
	request := append([]byte("CNI_COMMAND="+command), 0, 0)
	if question != nil {
		text, err := json.Marshal(question)
		if err != nil {
			return nil, err
		}
		request = append(request, text...)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.Socket)
	if err != nil {
		return nil, unanswered(ctx, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write(request); err != nil {
		return nil, unanswered(ctx, err)
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		return nil, unanswered(ctx, err)
	}
	text, err := io.ReadAll(io.LimitReader(conn, maxAnswer+1))
	if err != nil {
		return nil, unanswered(ctx, err)
	}
	if len(text) > maxAnswer {
		return nil, fmt.Errorf("its answer is longer than %d bytes: %w", maxAnswer, errdefs.ErrResourceExhausted)
	}
	return text, nil
}

// unanswered is the error of a call that the agent didn't answer: the caller's if that gave up.
func unanswered(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
}

// The codes of the agent's errors that matter to a caller; they are CNI's.
const (
	codeUnsupported = 2
	codeUnknown     = 3 // such a container
	codeUndecodable = 6
	codeInvalid     = 7
	codeTryAgain    = 11
)

// decode reads an answer: a digit that says whether the call succeeded, and JSON.
func decode(text []byte, into any) error {
	if len(text) == 0 {
		return fmt.Errorf("it went before it answered: %w", errdefs.ErrUnavailable)
	}
	status, text := text[0], text[1:]
	if status == '0' {
		if into == nil {
			return nil
		}
		return json.Unmarshal(text, into)
	}
	var refused struct {
		Code    uint   `json:"code"`
		Msg     string `json:"msg"`
		Details string `json:"details"`
	}
	if err := json.Unmarshal(text, &refused); status != '1' || err != nil || refused.Msg == "" {
		return fmt.Errorf("it answered %.200q", text)
	}
	err := errors.New(refused.Msg)
	if refused.Details != "" {
		err = fmt.Errorf("%s: %s", refused.Msg, refused.Details)
	}
	switch refused.Code {
	case codeUnknown:
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	case codeTryAgain:
		return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	case codeUnsupported, codeUndecodable, codeInvalid:
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return err
}
