package setup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/agent"
	"github.com/peregrine-dev/peregrine/netplugin/protocol"
)

// Report is how the node's agent is, and what it says of the networks.
type Report struct {
	Root  string `json:"root"`
	Agent bool   `json:"agent"` // falcond answers
	// Problem is why it doesn't.
	Problem string `json:"problem,omitempty"`
	// Node is what it answers; nil if it doesn't.
	Node *agent.Report `json:"node,omitempty"`
}

// Status asks the agent of this host, for a few seconds at most. That it doesn't answer is
// in the report and no error.
func Status(ctx context.Context) (Report, error) {
	return ask(ctx, agentRoot()), nil
}

// agentRoot is the agent's directory.
func agentRoot() string {
	if dir := os.Getenv("FALCON_ROOT"); dir != "" {
		return dir
	}
	return protocol.Root
}

func ask(ctx context.Context, root string) Report {
	r := Report{Root: root}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	node, err := agent.Ask(ctx, root)
	if err != nil {
		r.Problem = explain(err)
		return r
	}
	r.Agent, r.Node = true, node
	return r
}

// explain says for people why the agent doesn't answer.
func explain(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "only root may ask falcond"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return "falcond doesn't run: no container can be attached, those that are stay connected; systemctl start falcond"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("falcond doesn't answer within %s", patience)
	}
	return "falcond doesn't answer: " + err.Error()
}

// Print writes the report for people.
func (r Report) Print(w io.Writer) error {
	if r.Node == nil {
		_, err := fmt.Fprintf(w, "%s (%s)\n", r.Problem, r.Root)
		return err
	}
	n := r.Node
	fmt.Fprintf(w, "falcond runs (%s), node %s at %s\n", r.Root, n.Node, n.Address)
	fmt.Fprintln(w, others(n))
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NETWORK\tVNI\tSUBNETS\tENDPOINTS\tSTATE")
	for _, network := range n.Networks {
		state := "ready"
		if network.Problem != "" {
			state = network.Problem
		}
		var subnets []string
		for _, s := range network.Subnets {
			subnets = append(subnets, s.String())
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%d\t%s\n", network.Name, network.VNI, strings.Join(subnets, ","), network.Endpoints, state)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if err := printShortcut(w, n); err != nil {
		return err
	}
	dropped := map[string]uint64{}
	for _, d := range n.Drops {
		dropped[d.Reason] += d.Packets
	}
	for _, reason := range slices.Sorted(maps.Keys(dropped)) {
		if _, err := fmt.Fprintf(w, "%d packets dropped: %s\n", dropped[reason], reason); err != nil {
			return err
		}
	}
	return nil
}

// others is a line about the other nodes.
func others(n *agent.Report) string {
	nodes := fmt.Sprintf("%d other nodes", len(n.Peers))
	if len(n.Peers) == 1 {
		nodes = "1 other node"
	}
	s := n.Source
	switch {
	case s == nil:
		return "no other nodes are configured"
	case !s.Connected && s.Since.IsZero():
		return nodes + ", no answer yet"
	case !s.Connected:
		return fmt.Sprintf("%s, as of %s: %s", nodes, s.Since.Format(time.RFC3339), s.Problem)
	case s.Problem != "":
		return fmt.Sprintf("%s; this node is not published: %s", nodes, s.Problem)
	case len(s.Rejected) > 0:
		return fmt.Sprintf("%s, and %d left out: see falcond status", nodes, len(s.Rejected))
	}
	return nodes
}

// printShortcut says how many packets left the kernel's path, and what comes of classes.
func printShortcut(w io.Writer, n *agent.Report) error {
	sum := func(counts map[string]uint64) (n uint64) {
		for _, of := range counts {
			n += of
		}
		return n
	}
	state := "shortcut on"
	if n.Shortcut.Off != "" {
		state = "shortcut off: " + n.Shortcut.Off
	}
	left := sum(n.Shortcut.Left) - n.Shortcut.Left["pairs"] // which are by either path
	_, err := fmt.Fprintf(w, "%s; %d packets took it, %d took the kernel's path: see falcond status\n", state, sum(n.Shortcut.Taken), left)
	if err == nil && n.Priority.Off == "" && n.Priority.XDP != "" {
		_, err = fmt.Fprintf(w, "packets of class high go first, by %s XDP\n", n.Priority.XDP)
	}
	return err
}
