package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/peregrine-dev/peregrine/netplugin/agent"
)

// patience is how long the agent may take to say how it is.
const patience = 5 * time.Second

// show asks the agent how it is, and prints what print makes of it, or all of it as JSON.
func show(print func(io.Writer, agent.Report)) cli.ActionFunc {
	return func(c *cli.Context) error {
		ctx, cancel := context.WithTimeout(c.Context, patience)
		defer cancel()
		report, err := agent.Ask(ctx, c.Path("root"))
		if err != nil {
			return fmt.Errorf("%w: start falcond, or give its --root", err)
		}
		if c.Bool("json") {
			return json.NewEncoder(os.Stdout).Encode(report)
		}
		table := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
		print(table, *report)
		return table.Flush()
	}
}

func printStatus(w io.Writer, r agent.Report) {
	fmt.Fprintf(w, "node\t%s\naddress\t%s\nversion\t%s\n", r.Node, r.Address, r.Version)
	switch {
	case r.Source == nil:
		fmt.Fprintln(w, "peers\tnone are configured")
	case r.Source.Connected:
		fmt.Fprintf(w, "peers\t%d, up to date since %s\n", len(r.Peers), r.Source.Since.Format(time.RFC3339))
	default:
		fmt.Fprintf(w, "peers\t%d, as of %s: %s\n", len(r.Peers), r.Source.Since.Format(time.RFC3339), r.Source.Problem)
	}
	if r.Source != nil {
		if r.Source.Connected && r.Source.Problem != "" {
			fmt.Fprintf(w, "\tthis node is not published: %s\n", r.Source.Problem)
		}
		for name, reason := range r.Source.Rejected {
			fmt.Fprintf(w, "\tleft out %s: %s\n", name, reason)
		}
	}
	fmt.Fprintln(w, "\nNETWORK\tVNI\tBRIDGE\tSUBNETS\tENDPOINTS\tSTATE")
	for _, n := range r.Networks {
		state := "ready"
		switch {
		case n.Problem != "":
			state = n.Problem
		case n.Leaving:
			state = "not in the configuration any more; goes with its last container"
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%d\t%s\n", n.Name, n.VNI, n.Bridge, list(n.Subnets), n.Endpoints, state)
	}
	if len(r.Drops) > 0 {
		fmt.Fprintln(w, "\nDROPPED\tLINK\tPACKETS\tBYTES")
		for _, d := range r.Drops {
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\n", d.Reason, d.Link, d.Packets, d.Bytes)
		}
	}
}

func printEndpoints(w io.Writer, r agent.Report) {
	fmt.Fprintln(w, "CONTAINER\tINTERFACE\tNETWORK\tADDRESSES\tMAC\tLINK\tAGE")
	for _, e := range r.Endpoints {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.Container, e.Interface, e.Network, list(e.Addresses), e.MAC, e.Link, time.Since(e.Created).Round(time.Second))
	}
}

func printPeers(w io.Writer, r agent.Report) {
	fmt.Fprintln(w, "NODE\tADDRESS\tVNI\tSUBNETS")
	for _, p := range r.Peers {
		for _, vni := range slices.Sorted(maps.Keys(p.Networks)) {
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", p.Name, p.Address, vni, list(p.Networks[vni]))
		}
	}
}

func list[T fmt.Stringer](values []T) string {
	var texts []string
	for _, v := range values {
		texts = append(texts, v.String())
	}
	return strings.Join(texts, ",")
}
