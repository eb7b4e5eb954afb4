// Package check is the form in which plugins report what works on a host.
package check

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Status is the outcome of a probe.
type Status string

// The outcomes, from good to bad.
const (
	OK      Status = "ok"      // works
	Limited Status = "limited" // works, with something missing
	Missing Status = "missing" // does not work here
)

// Result is what one probe found.
type Result struct {
	Plugin string `json:"plugin"`
	Probe  string `json:"probe"`
	Status Status `json:"status"`
	// Detail is what was found, or why not and what to do.
	Detail string `json:"detail"`
}

// Print writes results as a table.
func Print(w io.Writer, results []Result) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "PLUGIN\tPROBE\tSTATUS\tDETAIL")
	for _, r := range results {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", r.Plugin, r.Probe, r.Status, r.Detail)
	}
	return t.Flush()
}
