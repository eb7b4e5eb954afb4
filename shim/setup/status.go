package setup

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/docker/go-units"

	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/pool"
)

// Report is how the pool is; as JSON it is a [pool.Status].
type Report struct{ pool.Status }

// Status looks at the pool of this host. Nobody is asked, so it answers whoever is down.
func Status(context.Context) (Report, error) {
	s, err := pool.ReadStatus(claim.Root())
	return Report{s}, err
}

// Print writes the report for people.
func (r Report) Print(w io.Writer) error {
	daemon := "flashcubed runs"
	if !r.Daemon {
		daemon = "flashcubed doesn't run: nothing refills the pool"
	}
	if _, err := fmt.Fprintf(w, "%s (%s)\n", daemon, r.Root); err != nil || len(r.Profiles) == 0 {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "PROFILE\tREADY\tBUILDING\tCLAIMED\tMEMORY\tHITS\tMISSES\tFALL-BACKS")
	names := slices.Sorted(maps.Keys(r.Profiles))
	for _, name := range names {
		p := r.Profiles[name]
		var fallbacks int64
		for _, n := range p.Fallbacks {
			fallbacks += n
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%s\t%d\t%d\t%d\n", name, p.Ready, p.Building, p.Claimed,
			units.BytesSize(float64(p.Memory)), p.Hits, p.Misses, fallbacks)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, name := range names {
		p := r.Profiles[name]
		for _, reason := range slices.Sorted(maps.Keys(p.Fallbacks)) {
			if _, err := fmt.Fprintf(w, "%d of %s fell back: %s\n", p.Fallbacks[reason], name, reason); err != nil {
				return err
			}
		}
		if p.Failure != "" {
			if _, err := fmt.Fprintf(w, "the last part of %s could not be built: %s\n", name, p.Failure); err != nil {
				return err
			}
		}
	}
	return nil
}
