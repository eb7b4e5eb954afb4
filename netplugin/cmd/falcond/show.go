package main

import (
	"cmp"
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
	"github.com/peregrine-dev/peregrine/netplugin/fastpath"
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
	printShortcut(w, r)
	printPriority(w, r.Priority)
	printPipeline(w, r.Pipeline)
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
	printCounts(w, "TOOK THE SHORTCUT", r.Shortcut.Taken)
	printCounts(w, "KERNEL'S PATH", r.Shortcut.Left)
	printCounts(w, "AT THE NIC", r.Shortcut.Steered)
}

// printShortcut says whether packets take the shortcut, and whose don't.
func printShortcut(w io.Writer, r agent.Report) {
	state := "on"
	if r.Shortcut.Off != "" {
		state = "off: " + oneLine(r.Shortcut.Off)
	}
	fmt.Fprintf(w, "shortcut\t%s\n", state)
	if r.Shortcut.Problem != "" {
		fmt.Fprintf(w, "\tproblem: %s\n", oneLine(r.Shortcut.Problem))
	}
	containers := map[string]string{}
	for _, e := range r.Endpoints {
		containers[e.Link] = e.Container
	}
	for _, link := range slices.Sorted(maps.Keys(r.Shortcut.Slow)) {
		fmt.Fprintf(w, "\tnot for %s: %s\n", cmp.Or(containers[link], link), r.Shortcut.Slow[link])
	}
	if n := r.Shortcut.Waiting; n > 0 {
		fmt.Fprintf(w, "\tnot yet for %d new containers\n", n)
	}
}

// printPriority says what comes of classes.
func printPriority(w io.Writer, p agent.PriorityReport) {
	if p.Off != "" {
		fmt.Fprintf(w, "priority\toff: %s\n", oneLine(p.Off))
		return
	}
	dscp := ""
	if p.TrustDSCP {
		dscp = ", DSCP is trusted"
	}
	fmt.Fprintf(w, "priority\t%s, by %s XDP; up to %d packets/s of class high on each core%s\n", p.Mode, p.XDP, p.HighRate, dscp)
	if p.Problem != "" {
		fmt.Fprintf(w, "\tproblem: %s\n", oneLine(p.Problem))
	}
}

// printPipeline says whether stages of receiving are moved to other cores, and to which.
func printPipeline(w io.Writer, p agent.PipelineReport) {
	fmt.Fprintf(w, "pipeline\t%s\n", cmp.Or(p.Why, "off: not looked at yet"))
	if p.On && p.Cores != "" {
		fmt.Fprintf(w, "\tcores: %s\n", p.Cores)
	}
	if len(p.Loads) > 0 {
		var loads []string
		for _, cpu := range slices.Sorted(maps.Keys(p.Loads)) {
			loads = append(loads, fmt.Sprintf("%d: %d %%", cpu, (p.Loads[cpu]+5)/10))
		}
		fmt.Fprintf(w, "\tbusy: %s\n", strings.Join(loads, ", "))
	}
	if p.Problem != "" {
		fmt.Fprintf(w, "\tproblem: %s\n", oneLine(p.Problem))
	}
	for _, f := range p.Foreign {
		fmt.Fprintf(w, "\tqueue %s of %s in %s is spread over CPUs %s by somebody else, and left so\n", f.Queue, f.Interface, f.Container, f.CPUs)
	}
}

// oneLine is what may be several errors, in one line.
func oneLine(text string) string { return strings.ReplaceAll(text, "\n", "; ") }

// printCounts says how many packets there were of each kind, the most first.
func printCounts(w io.Writer, head string, counts map[string]uint64) {
	if len(counts) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\tPACKETS\tWHICH\n", head)
	for _, name := range slices.SortedFunc(maps.Keys(counts), func(x, y string) int {
		return cmp.Or(cmp.Compare(counts[y], counts[x]), cmp.Compare(x, y))
	}) {
		fmt.Fprintf(w, "%s\t%d\t%s\n", name, counts[name], fastpath.Meaning(name))
	}
}

func printEndpoints(w io.Writer, r agent.Report) {
	now := time.Now()
	fmt.Fprintln(w, "CONTAINER\tINTERFACE\tNETWORK\tADDRESSES\tMAC\tLINK\tAGE\tCLASS")
	for _, e := range r.Endpoints {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.Container, e.Interface, e.Network, list(e.Addresses), e.MAC, e.Link, now.Sub(e.Created).Round(time.Second), classOf(e, now))
	}
}

// classOf is an attachment's class, and where it comes from if somebody reserved it.
func classOf(e agent.EndpointReport, now time.Time) string {
	class := e.Class.String()
	if len(e.Reserved) > 0 {
		r := e.Reserved[len(e.Reserved)-1] // the one in force
		class += ", reserved by " + r.Owner
		if !r.Expires.IsZero() {
			class += " for " + r.Expires.Sub(now).Round(time.Second).String()
		}
		return class
	}
	switch e.Rules {
	case 0:
		return class
	case 1:
		return class + ", 1 rule"
	}
	return fmt.Sprintf("%s, %d rules", class, e.Rules)
}

// showPairs prints what passed between containers.
func showPairs(c *cli.Context) error {
	ctx, cancel := context.WithTimeout(c.Context, patience)
	defer cancel()
	pairs, err := agent.Pairs(ctx, c.Path("root"))
	if err != nil {
		return noAgent(err)
	}
	if c.Bool("json") {
		return json.NewEncoder(os.Stdout).Encode(pairs)
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	printPairs(table, pairs)
	return table.Flush()
}

func printPairs(w io.Writer, pairs []agent.Pair) {
	fmt.Fprintln(w, "SOURCE\tDESTINATION\tNETWORK\tSENT\tBYTES\tRECEIVED\tBYTES")
	for _, p := range pairs {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%d\n", named(p.SourceContainer, p.Source.String()), named(p.DestinationContainer, p.Destination.String()),
			cmp.Or(p.Network, fmt.Sprint("VNI ", p.VNI)), p.SentPackets, p.SentBytes, p.ReceivedPackets, p.ReceivedBytes)
	}
}

// named is an address with the container's name, if it is one of this node's.
func named(container, address string) string {
	if container == "" {
		return address
	}
	return address + " (" + container + ")"
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
