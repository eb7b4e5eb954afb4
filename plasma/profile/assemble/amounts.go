package assemble

import (
	"math"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/model"
)

const (
	// most is what any amount may be, so that sums are numbers too.
	most = 1e18
	// least is the shortest time that counts can be of.
	least = time.Millisecond
)

// amount is a measured value as far as it can be true.
func amount(v float64) float64 {
	if !(v > 0) { // NaN too
		return 0
	}
	return min(v, most)
}

func resources(r model.Resources) model.Resources {
	return model.Resources{CPU: amount(r.CPU), Mem: amount(r.Mem), Net: amount(r.Net)}
}

func latency(l *api.Latency) model.Latency {
	return model.Latency{Mean: amount(l.GetMean()), P50: amount(l.GetP50()), P95: amount(l.GetP95()), P99: amount(l.GetP99())}
}

// metrics merges what was measured: of two of a name the first counts.
func metrics(all ...map[string]float64) map[string]float64 {
	var merged map[string]float64
	for _, m := range all {
		for name, value := range m {
			if math.IsNaN(value) || math.IsInf(value, 0) {
				continue
			}
			if merged == nil {
				merged = make(map[string]float64, len(m))
			}
			if _, ok := merged[name]; !ok {
				merged[name] = value
			}
		}
	}
	return merged
}

// seconds is a report's window; 0 if nothing can have been counted in it.
func seconds(window int64) float64 {
	if window < int64(least) {
		return 0
	}
	return time.Duration(window).Seconds()
}
