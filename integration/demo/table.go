package demo

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/peregrine-dev/peregrine/integration/bench"
)

// Row is a line of the demo's table: what a container did, on the stock part and on
// ours, in the same unit; less is better.
type Row struct {
	What        string
	Stock, Ours string // names of the parts
	Unit        string
	StockTook   bench.Series
	OursTook    bench.Series
}

// Print writes the table, if there are rows.
func Print(w io.Writer, rows []Row) error {
	if len(rows) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 8, 1, ' ', 0)
	fmt.Fprintln(t, "| what a container does\t| stock\t| Peregrine\t| \t|")
	fmt.Fprintln(t, "| ---\t| ---\t| ---\t| ---\t|")
	for _, r := range rows {
		stock, ours := r.StockTook.Median(), r.OursTook.Median()
		fmt.Fprintf(t, "| %s\t| %s %s (%s)\t| %s %s (%s)\t| %s\t|\n", r.What,
			bench.Digits(stock), r.Unit, r.Stock, bench.Digits(ours), r.Unit, r.Ours, verdict(stock/ours))
	}
	return t.Flush()
}

// verdict says what a ratio means to somebody who reads only that column.
func verdict(ratio float64) string {
	switch {
	case ratio >= 1.1:
		return bench.Digits(ratio) + "x better"
	case ratio > 0.9:
		return "the same"
	default:
		return bench.Digits(1/ratio) + "x worse"
	}
}
