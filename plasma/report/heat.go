package report

import (
	"fmt"

	"github.com/peregrine-dev/peregrine/plasma/sim"
)

// The most rows and columns of a map: more servers are left out, more windows are merged.
const (
	maxHeatRows    = 120
	maxHeatColumns = 240
)

// heat is a map of the load of each server over time.
type heat struct {
	Width, Height float64
	Left, Bottom  float64
	Rows          []heatRow
	X             []tick
	Hidden        int
	Bound         string
}

type heatRow struct {
	Name   string
	Y      float64
	Height float64
	Cells  []heatCell
}

// heatCell is a stretch of the same load.
type heatCell struct {
	X, Width     float64
	Class, Title string
}

func newHeat(r *sim.Result) *heat {
	if len(r.Windows) == 0 {
		return nil
	}
	servers := min(len(r.Names), maxHeatRows)
	group := (len(r.Windows) + maxHeatColumns - 1) / maxHeatColumns
	columns := (len(r.Windows) + group - 1) / group
	// The greatest load of each server in each column; -1 where it wasn't.
	loads := make([][]float64, servers)
	for i := range loads {
		loads[i] = make([]float64, columns)
		for k := range loads[i] {
			loads[i][k] = -1
		}
	}
	for i := range r.Windows {
		for _, l := range r.Windows[i].Loads {
			if int(l.Server) < servers {
				cell := &loads[l.Server][i/group]
				*cell = max(*cell, float64(l.CPU))
			}
		}
	}
	const leftOf = 80.0
	size := 14.0
	if servers > 40 {
		size = 7
	}
	h := &heat{
		Width: width, Left: leftOf, Height: size*float64(servers) + bottom, Bottom: size * float64(servers),
		Hidden: len(r.Names) - servers, Bound: percent(r.Bound),
	}
	step := (width - leftOf - right) / float64(columns)
	end := r.Windows[len(r.Windows)-1].At.Seconds()
	for _, t := range nice(0, end, 8) {
		h.X = append(h.X, tick{leftOf + (width-leftOf-right)*t/end, clockLabel(t)})
	}
	for i := range servers {
		row := heatRow{Name: r.Names[i], Y: size * float64(i), Height: size - 1}
		for k := 0; k < columns; {
			class := heatClass(loads[i][k], r.Bound)
			last := k
			most := loads[i][k]
			for last+1 < columns && heatClass(loads[i][last+1], r.Bound) == class {
				last++
				most = max(most, loads[i][last])
			}
			if class != "" {
				from, to := r.Windows[k*group], r.Windows[min((last+1)*group, len(r.Windows))-1]
				row.Cells = append(row.Cells, heatCell{
					X: leftOf + step*float64(k), Width: step * float64(last+1-k), Class: class,
					Title: fmt.Sprintf("%s, %s to %s: up to %s", r.Names[i], from.At-from.Length, to.At, percent(most)),
				})
			}
			k = last + 1
		}
		h.Rows = append(h.Rows, row)
	}
	return h
}

// heatClass is the color of a load: a step for each 10 %, and one above the bound.
func heatClass(load, bound float64) string {
	switch {
	case load < 0:
		return ""
	case load > bound:
		return "hot"
	}
	return fmt.Sprintf("h%d", min(9, int(load*10)))
}
