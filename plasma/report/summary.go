package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"text/tabwriter"

	"github.com/peregrine-dev/peregrine/plasma/sim"
)

// Summary is the mean over a policy's runs.
type Summary struct {
	Name            string  `json:"name"`
	Runs            int     `json:"runs"`
	Mean            float64 `json:"mean"` // latencies in ms
	P50             float64 `json:"p50"`
	P95             float64 `json:"p95"`
	P99             float64 `json:"p99"`
	P999            float64 `json:"p999"`
	Throughput      float64 `json:"throughput"` // requests answered per second
	Unanswered      float64 `json:"unanswered"`
	ServerSeconds   float64 `json:"serverSeconds"`
	CoreSeconds     float64 `json:"coreSeconds"`
	OverloadSeconds float64 `json:"overloadSeconds"`
	MaxOverMean     float64 `json:"maxOverMean"`
	Moves           float64 `json:"moves"`
	MovedMiB        float64 `json:"movedMiB"`
	PingPong        float64 `json:"pingPong"`
	ScaleOuts       float64 `json:"scaleOuts"`
	ScaleIns        float64 `json:"scaleIns"`
	Invalid         float64 `json:"invalid"`
}

// Summarize gives the means over a policy's runs.
func Summarize(p Policy) Summary {
	s := Summary{Name: p.Name, Runs: len(p.Results)}
	for _, c := range columns {
		for _, r := range p.Results {
			*c.field(&s) += c.value(r) / float64(len(p.Results))
		}
	}
	return s
}

// column is a measure.
type column struct {
	name, unit, doc string
	field           func(*Summary) *float64
	value           func(*sim.Result) float64
	ratio           bool // to the first policy is shown
	wide            bool // in the wide tables only
}

var columns = []column{
	{name: "mean", unit: "ms", field: func(s *Summary) *float64 { return &s.Mean }, value: func(r *sim.Result) float64 { return r.Latency.Mean }, doc: "latency of requests after the warm-up", wide: true},
	{name: "p50", unit: "ms", field: func(s *Summary) *float64 { return &s.P50 }, value: func(r *sim.Result) float64 { return r.Latency.P50 }, doc: "half of the requests were faster", ratio: true},
	{name: "p95", unit: "ms", field: func(s *Summary) *float64 { return &s.P95 }, value: func(r *sim.Result) float64 { return r.Latency.P95 }, doc: "95 % were faster", wide: true},
	{name: "p99", unit: "ms", field: func(s *Summary) *float64 { return &s.P99 }, value: func(r *sim.Result) float64 { return r.Latency.P99 }, doc: "99 % were faster", ratio: true},
	{name: "p99.9", unit: "ms", field: func(s *Summary) *float64 { return &s.P999 }, value: func(r *sim.Result) float64 { return r.Latency.P999 }, doc: "99.9 % were faster", wide: true},
	{name: "throughput", unit: "/s", field: func(s *Summary) *float64 { return &s.Throughput }, value: (*sim.Result).Throughput, doc: "requests answered per second"},
	{name: "unanswered", field: func(s *Summary) *float64 { return &s.Unanswered }, value: func(r *sim.Result) float64 { return float64(r.Unanswered()) }, doc: "requests that failed or were still open at the end"},
	{name: "server-s", field: func(s *Summary) *float64 { return &s.ServerSeconds }, value: func(r *sim.Result) float64 { return r.ServerSeconds }, doc: "seconds of servers that were paid for", ratio: true},
	{name: "core-s", field: func(s *Summary) *float64 { return &s.CoreSeconds }, value: func(r *sim.Result) float64 { return r.CoreSeconds }, doc: "the same of their cores", wide: true},
	{name: "overload-s", field: func(s *Summary) *float64 { return &s.OverloadSeconds }, value: func(r *sim.Result) float64 { return r.OverloadSeconds }, doc: "seconds of servers that used more of their cores than the bound", ratio: true},
	{name: "max/mean", field: func(s *Summary) *float64 { return &s.MaxOverMean }, value: func(r *sim.Result) float64 { return r.MaxOverMean }, doc: "the most loaded server's load over the mean, in the mean over the periods"},
	{name: "moves", field: func(s *Summary) *float64 { return &s.Moves }, value: func(r *sim.Result) float64 { return float64(r.Moves) }, doc: "actors that were moved", ratio: true},
	{name: "moved", unit: "MiB", field: func(s *Summary) *float64 { return &s.MovedMiB }, value: func(r *sim.Result) float64 { return r.MoveBytes / (1 << 20) }, doc: "state that moves carried", wide: true},
	{name: "ping-pong", field: func(s *Summary) *float64 { return &s.PingPong }, value: func(r *sim.Result) float64 { return float64(r.PingPong) }, doc: "moves back to a server that was left within ten periods"},
	{name: "out", field: func(s *Summary) *float64 { return &s.ScaleOuts }, value: func(r *sim.Result) float64 { return float64(r.ScaleOuts) }, doc: "servers started", wide: true},
	{name: "in", field: func(s *Summary) *float64 { return &s.ScaleIns }, value: func(r *sim.Result) float64 { return float64(r.ScaleIns) }, doc: "servers ended", wide: true},
	{name: "invalid", field: func(s *Summary) *float64 { return &s.Invalid }, value: func(r *sim.Result) float64 { return float64(r.InvalidActions()) }, doc: "actions that couldn't be done", wide: true},
}

// table is policies side by side.
type table struct {
	Columns []fact
	Rows    []row
}

type row struct {
	Name, Doc string
	Cells     []cell
}

type cell struct{ Value, Ratio string }

// compare makes the table of several policies.
func compare(policies []Policy) *table {
	t := &table{}
	for _, c := range columns {
		t.Columns = append(t.Columns, fact{c.name, c.unit, c.doc})
	}
	first := Summarize(policies[0])
	for i, p := range policies {
		s := Summarize(p)
		r := row{Name: p.Name, Doc: p.Doc}
		for _, c := range columns {
			v := *c.field(&s)
			one := cell{Value: number(v)}
			if c.ratio && i > 0 {
				one.Ratio = times(v, *c.field(&first))
			}
			r.Cells = append(r.Cells, one)
		}
		t.Rows = append(t.Rows, r)
	}
	return t
}

// times is a value as a multiple of the first policy's.
func times(v, of float64) string {
	if of == 0 {
		return ""
	}
	return number(v/of) + "×"
}

// Text writes a table for a terminal; the ratios are to the first policy.
func Text(w io.Writer, policies []Policy) error {
	if err := check(policies); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	head := "policy"
	for _, c := range columns {
		if c.wide {
			continue
		}
		head += "\t" + c.name
		if c.unit != "" {
			head += " (" + c.unit + ")"
		}
	}
	fmt.Fprintln(t, head)
	all := compare(policies)
	for _, r := range all.Rows {
		line := plain(r.Name)
		for i, c := range columns {
			if c.wide {
				continue
			}
			line += "\t" + r.Cells[i].Value
			if ratio := r.Cells[i].Ratio; ratio != "" {
				line += " " + ratio
			}
		}
		fmt.Fprintln(t, line)
	}
	return t.Flush()
}

// Details writes what came of one run for a terminal.
func Details(w io.Writer, r *sim.Result) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, f := range facts(r) {
		fmt.Fprintf(t, "%s\t%s\n", f.Name, f.Value)
	}
	for _, f := range invalid(r) {
		fmt.Fprintf(t, "not done\t%s times %s\n", f.Value, plain(f.Name))
	}
	return t.Flush()
}

// facts are a run's totals.
func facts(r *sim.Result) []fact {
	n := func(v uint64) string { return number(float64(v)) }
	l := r.Latency
	return []fact{
		{"simulated", fmt.Sprintf("%s in %d periods of %s, seed %d", r.Duration, len(r.Windows), r.Period, r.Seed), ""},
		{"requests", fmt.Sprintf("%s, %s answered, %s failed, %s open at the end", n(r.Requests), n(r.Answered), n(r.Failed), n(r.Open)), ""},
		{"throughput", number(r.Throughput()) + " /s", ""},
		{"latency", fmt.Sprintf("p50 %s, p95 %s, p99 %s, p99.9 %s, mean %s ms", number(l.P50), number(l.P95), number(l.P99), number(l.P999), number(l.Mean)), "after the warm-up"},
		{"server-seconds", fmt.Sprintf("%s (%s core-seconds)", number(r.ServerSeconds), number(r.CoreSeconds)), "that were paid for"},
		{"overload", fmt.Sprintf("%s server-seconds above %s of the cores", number(r.OverloadSeconds), percent(r.Bound)), ""},
		{"max/mean load", fmt.Sprintf("%s, at worst %s", number(r.MaxOverMean), number(r.WorstMaxOverMean)), ""},
		{"moves", fmt.Sprintf("%d of %s MiB, %d there and back, %d aborted, actors stood still for %s s", r.Moves, number(r.MoveBytes/(1<<20)), r.PingPong, r.AbortedMoves, number(r.MovePause)), ""},
		{"servers", fmt.Sprintf("%d started, %d ended, %d resizes, %d failed", r.ScaleOuts, r.ScaleIns, r.Resizes, r.Failures), "during the run"},
		{"plans", fmt.Sprintf("%d, %d actions not done", r.Plans, r.InvalidActions()) + shadowed(r), ""},
		{"messages", fmt.Sprintf("%s lost, %s dropped, %s forwarded", n(r.Lost), n(r.Dropped), n(r.Forwarded)), ""},
		{"events", n(r.Events), ""},
	}
}

func shadowed(r *sim.Result) string {
	if r.Shadowed == 0 {
		return ""
	}
	return fmt.Sprintf(", %d held back by mode shadow", r.Shadowed)
}

func invalid(r *sim.Result) []fact {
	var out []fact
	for what, n := range r.Invalid {
		out = append(out, fact{Name: what, Value: strconv.Itoa(n)})
	}
	slices.SortFunc(out, func(a, b fact) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out
}

// number writes three digits, or all before the point.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "-"
	case a >= 100 || v == math.Trunc(v):
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

func percent(v float64) string { return number(100*v) + " %" }

// plain takes from a name what would play tricks on a terminal.
func plain(s string) string {
	return strconv.Quote(s)[1 : len(strconv.Quote(s))-1]
}
