// Package bench measures the bundle's plugins against the stock parts they stand
// beside: both in one run, by turns, on the same machine.
package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/images"
)

// Options say where things are and how long to measure.
type Options struct {
	Cache string
	Bin   string
	// Quick ends within 50 s, with as many rounds as fit.
	Quick bool
	// Rows are those to measure; none: all. Network and Plasma know how to leave out others.
	Rows     []string
	Progress images.Progress
}

// wants reports whether any of the rows is to be measured.
func (o Options) wants(rows ...string) bool {
	return len(o.Rows) == 0 || slices.ContainsFunc(rows, func(r string) bool { return slices.Contains(o.Rows, r) })
}

// rounds counts rounds of measurements: each gives a sample of everything.
type rounds struct {
	done, want int
	began      time.Time // of this round
	end        time.Time // zero: no bound
}

// rounds are as many as there shall be samples; a quick run ends them early, at a time.
func (o Options) rounds(samples int, end time.Time) *rounds {
	if o.Quick {
		return &rounds{want: samples, end: end}
	}
	return &rounds{want: samples}
}

// next reports whether there is another round: there is always a first, and one that
// would not end in time does not begin.
func (r *rounds) next() bool {
	now := time.Now()
	lasted := now.Sub(r.began)
	if r.done == r.want || r.done > 0 && !r.end.IsZero() && now.Add(lasted).After(r.end) {
		return false
	}
	r.done++
	r.began = now
	return true
}

// Row is one comparison. All of it was measured in this run.
type Row struct {
	Name     string  `json:"name"`
	Unit     string  `json:"unit"`
	Ours     float64 `json:"ours"` // median
	Peer     float64 `json:"peer"` // median
	PeerName string  `json:"peer_name"`
	// Ratio is how many times better ours is, above 1 being better whatever the unit.
	Ratio float64 `json:"ratio"`
	N     int     `json:"n"` // samples of each
	// 99 in 100 samples are at least as good: of fewer than a hundred, all.
	P99Ours float64 `json:"p99_ours"`
	P99Peer float64 `json:"p99_peer"`
	Note    string  `json:"note"`
}

// Series are the samples of one thing measured.
type Series []float64

// Median is the middle sample, NaN of none.
func (s Series) Median() float64 { return s.quantile(0.5) }

func (s Series) mean() float64 {
	var sum float64
	for _, x := range s {
		sum += x
	}
	return sum / float64(len(s))
}

func (s Series) quantile(q float64) float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	if q == 0.5 && len(sorted)%2 == 0 {
		return (sorted[len(sorted)/2-1] + sorted[len(sorted)/2]) / 2
	}
	return sorted[max(int(math.Ceil(q*float64(len(sorted)))), 1)-1]
}

// Unit is what a figure counts and whether more of it is better.
type Unit struct {
	Name       string
	MoreBetter bool
}

// Units of the rows.
var (
	Milliseconds = Unit{"ms", false}
	KiB          = Unit{"KiB", false}
	PerSecond    = Unit{"1/s", true}
	MiBPerSecond = Unit{"MiB/s", true}
)

// Compare makes the row of two series.
func Compare(name string, unit Unit, ours Series, peerName string, peer Series, note string) Row {
	r := Row{
		Name: name, Unit: unit.Name, Ours: ours.Median(), Peer: peer.Median(), PeerName: peerName,
		N: min(len(ours), len(peer)), P99Ours: ours.quantile(0.99), P99Peer: peer.quantile(0.99), Note: note,
	}
	r.Ratio = r.Peer / r.Ours
	if unit.MoreBetter {
		r.Ratio = r.Ours / r.Peer
		r.P99Ours, r.P99Peer = ours.quantile(0.01), peer.quantile(0.01)
	}
	return r
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// Print writes rows as a table for people.
func Print(w io.Writer, rows []Row) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "row\tours\tpeer\tunit\tratio\tn\tp99 ours\tp99 peer\tpeer is\t")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%sx\t%d\t%s\t%s\t%s\t\n", r.Name, Digits(r.Ours), Digits(r.Peer), r.Unit,
			Digits(r.Ratio), r.N, Digits(r.P99Ours), Digits(r.P99Peer), r.PeerName)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range rows {
		if r.Note != "" {
			fmt.Fprintf(w, "  %s: %s\n", r.Name, r.Note)
		}
	}
	return nil
}

// WriteJSON writes rows as an array to a file.
func WriteJSON(file string, rows []Row) error {
	text, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// Digits prints three of them.
func Digits(x float64) string {
	switch a := math.Abs(x); {
	case math.IsNaN(x):
		return "-"
	case a >= 100:
		return fmt.Sprintf("%.0f", x)
	case a >= 10:
		return fmt.Sprintf("%.1f", x)
	case a >= 1:
		return fmt.Sprintf("%.2f", x)
	default:
		return fmt.Sprintf("%.3f", x)
	}
}

// Machine says in one line where a run took place.
func Machine() string {
	var name unix.Utsname
	var memory unix.Sysinfo_t
	_, _ = unix.Uname(&name), unix.Sysinfo(&memory)
	model := "unknown CPU"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for _, line := range strings.Split(string(text), "\n") {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d x %s, %d GiB, Linux %s", runtime.NumCPU(), model,
		uint64(memory.Totalram)*uint64(memory.Unit)>>30, unix.ByteSliceToString(name.Release[:]))
}
