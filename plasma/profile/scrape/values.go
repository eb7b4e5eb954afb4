package scrape

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// MaxValues is how many values a page may have.
const MaxValues = 10_000

// quantiles are computed of histograms. Those of summaries are as the application gives them.
var quantiles = []float64{.5, .95, .99}

// Parse gives the values of a page by name: summed over labels. Of a histogram or a summary NAME
// these are NAME_count, NAME_sum and its quantiles as NAME_p50, NAME_p95, NAME_p99, NAME_p99_9;
// they are since the application began, and of a summary's labels the largest counts. Values
// that are no numbers are left out. errdefs.ErrInvalidArgument: it isn't Prometheus' text format,
// or has more than MaxValues.
func Parse(r io.Reader) (map[string]float64, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(r)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	v := values{}
	for name, family := range families {
		buckets := map[float64]float64{} // by upper bound, cumulative
		for _, m := range family.GetMetric() {
			switch {
			case m.GetHistogram() != nil:
				h := m.GetHistogram()
				v.add(name+"_count", float64(h.GetSampleCount()))
				v.add(name+"_sum", h.GetSampleSum())
				for _, b := range h.GetBucket() {
					buckets[b.GetUpperBound()] += float64(b.GetCumulativeCount())
				}
			case m.GetSummary() != nil:
				s := m.GetSummary()
				v.add(name+"_count", float64(s.GetSampleCount()))
				v.add(name+"_sum", s.GetSampleSum())
				for _, q := range s.GetQuantile() {
					v.most(name+suffix(q.GetQuantile()), q.GetValue())
				}
			case m.GetCounter() != nil:
				v.add(name, m.GetCounter().GetValue())
			case m.GetGauge() != nil:
				v.add(name, m.GetGauge().GetValue())
			case m.GetUntyped() != nil:
				v.add(name, m.GetUntyped().GetValue())
			}
		}
		for _, q := range quantiles {
			if value, ok := quantile(q, buckets); ok {
				v.add(name+suffix(q), value)
			}
		}
		if len(v) > MaxValues {
			return nil, fmt.Errorf("metrics: there are more than %d: %w", MaxValues, errdefs.ErrInvalidArgument)
		}
	}
	return v, nil
}

type values map[string]float64

func (v values) add(name string, value float64) {
	if sum := v[name] + value; finite(value) && finite(sum) {
		v[name] = sum
	}
}

func (v values) most(name string, value float64) {
	if known, ok := v[name]; finite(value) && (!ok || value > known) {
		v[name] = value
	}
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// suffix is _p99 for .99, and _p99_9 for .999.
func suffix(q float64) string {
	percent := strconv.FormatFloat(math.Round(1e4*q)/100, 'f', -1, 64)
	return "_p" + strings.NewReplacer(".", "_", "-", "_", "+", "_").Replace(percent)
}

// quantile interpolates in a histogram's buckets as Prometheus does: the values of a bucket are
// taken to be spread evenly. What is above the last bound counts as that.
func quantile(q float64, buckets map[float64]float64) (float64, bool) {
	bounds := slices.Sorted(maps.Keys(buckets))
	if len(bounds) < 2 || !math.IsInf(bounds[len(bounds)-1], 1) {
		return 0, false
	}
	total := buckets[bounds[len(bounds)-1]]
	if total <= 0 {
		return 0, false
	}
	lower, below := 0.0, 0.0
	for _, upper := range bounds {
		n := buckets[upper]
		if n < q*total {
			lower, below = upper, n
			continue
		}
		if math.IsInf(upper, 1) || n <= below {
			return lower, finite(lower)
		}
		lower = min(lower, upper) // the first bucket's may be negative
		return lower + (upper-lower)*(q*total-below)/(n-below), finite(upper - lower)
	}
	return lower, finite(lower)
}
