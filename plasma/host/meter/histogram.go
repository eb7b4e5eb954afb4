package meter

import (
	"math/bits"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/api"
)

// Each power of two of microseconds has 8 buckets: a figure is right to 7 %. An actor's
// histogram is 800 bytes, which is why it isn't an HdrHistogram.
const (
	subBits = 3
	sub     = 1 << subBits
	octaves = 25 // up to 33 s
)

// Histogram counts durations.
type Histogram struct {
	count   uint64
	sum     time.Duration
	buckets [octaves * sub]uint32
}

// Record counts a duration weight times.
func (h *Histogram) Record(d time.Duration, weight uint32) {
	d = max(d, 0)
	h.count += uint64(weight)
	h.sum += d * time.Duration(weight)
	h.buckets[bucket(d)] += weight
}

func bucket(d time.Duration) int {
	us := uint64(d / time.Microsecond)
	if us < sub {
		return int(us)
	}
	octave := bits.Len64(us) - subBits - 1
	return min((octave+1)*sub+int(us>>octave)-sub, octaves*sub-1)
}

// middle is the duration that stands for a bucket.
func middle(i int) time.Duration {
	if i < sub {
		return time.Duration(i)*time.Microsecond + time.Microsecond/2
	}
	octave := i/sub - 1
	low := uint64(sub+i%sub) << octave
	return time.Duration(low)*time.Microsecond + time.Duration(uint64(1)<<octave)*time.Microsecond/2
}

// Add counts what another has counted.
func (h *Histogram) Add(o *Histogram) {
	if o == nil {
		return
	}
	h.count += o.count
	h.sum += o.sum
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
}

// Quantile gives the duration below which a share of the durations is.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	need := uint64(q*float64(h.count) + 0.5)
	var n uint64
	for i, c := range h.buckets {
		if n += uint64(c); n >= max(need, 1) {
			return middle(i)
		}
	}
	return middle(len(h.buckets) - 1)
}

// API gives the figures for the protocol; nil if there are none.
func (h *Histogram) API() *api.Latency {
	if h == nil || h.count == 0 {
		return nil
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return &api.Latency{
		Mean: ms(h.sum) / float64(h.count),
		P50:  ms(h.Quantile(.5)), P95: ms(h.Quantile(.95)), P99: ms(h.Quantile(.99)),
		Count: h.count,
	}
}
