package demo

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Finding is something that was tried and what came of it.
type Finding struct{ Tried, Seen string }

// topology is what network makes.
const topology = `      outside            node a               node b
     192.0.2.9         192.0.2.1            192.0.2.2
         |                 | falcond            | falcond
   ------+-----------------+---- switch --------+------
                           |                    |
                       container            container :80, published as b:8080
                       10.88.1.x  == VXLAN == 10.88.2.x
                  fd00:88:0:1::x              fd00:88:0:2::x
`

// PrintNetwork writes what was seen of the network, if anything was.
func PrintNetwork(w io.Writer, seen []Finding) error {
	if len(seen) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\nA network of containers over two nodes. All hosts here are network namespaces;\nthe container on b is one of containerd, that on a a namespace only.\n\n%s\n", topology)
	return printFindings(w, seen)
}

// PrintPlasma writes what was seen of elasticity, if anything was.
func PrintPlasma(w io.Writer, seen []Finding) error {
	if len(seen) == 0 {
		return nil
	}
	fmt.Fprint(w, "\nElasticity of a service whose actors have state, on a cluster of three nodes: network\nnamespaces with a containerd, a plasmad and a member of etcd each.\n\n")
	return printFindings(w, seen)
}

func printFindings(w io.Writer, seen []Finding) error {
	t := tabwriter.NewWriter(w, 0, 8, 1, ' ', 0)
	fmt.Fprintln(t, "| what was tried\t| what came of it\t|")
	fmt.Fprintln(t, "| ---\t| ---\t|")
	for _, f := range seen {
		fmt.Fprintf(t, "| %s\t| %s\t|\n", f.Tried, f.Seen)
	}
	return t.Flush()
}
