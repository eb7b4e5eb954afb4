package sim

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/world"
)

// Result is what came of a run.
type Result struct {
	World    string        `json:"world"`
	Seed     uint64        `json:"seed"`
	Duration time.Duration `json:"duration"`
	Period   time.Duration `json:"period"`
	// Events is how many events were simulated.
	Events uint64 `json:"events"`

	// Requests came from clients: Answered, or Failed (their actor or one they needed died, its
	// server failed, or a queue was full), or Open when the run ended.
	Requests uint64 `json:"requests"`
	Answered uint64 `json:"answered"`
	Failed   uint64 `json:"failed"`
	Open     uint64 `json:"open"`
	// MeanOpen is how many requests were under way, in the mean over time.
	MeanOpen float64 `json:"meanOpen"`
	// Lost are messages that failures and deaths took, Dropped those that there was no room for,
	// Forwarded those that were sent after an actor that had moved.
	Lost      uint64 `json:"lost"`
	Dropped   uint64 `json:"dropped"`
	Forwarded uint64 `json:"forwarded"`
	// Latency is of the answered requests that came after the warm-up.
	Latency Latency `json:"latency"`

	// ServerSeconds are paid for, from a server's start until it has gone; CoreSeconds are their
	// cores' time. OverloadSeconds are those of serving servers in windows in which they used
	// more of their cores than the bound; Bound is that.
	ServerSeconds   float64 `json:"serverSeconds"`
	CoreSeconds     float64 `json:"coreSeconds"`
	OverloadSeconds float64 `json:"overloadSeconds"`
	Bound           float64 `json:"bound"`
	// MaxOverMean is the most loaded server's load over the mean load, in the mean over the
	// windows after the warm-up; WorstMaxOverMean is its greatest.
	MaxOverMean      float64 `json:"maxOverMean"`
	WorstMaxOverMean float64 `json:"worstMaxOverMean"`

	// Moves have arrived, with MoveBytes of state; actors stood still for MovePause seconds in
	// all. AbortedMoves lost their target. PingPong are moves back to a server that the actor
	// had left within the last ten periods.
	Moves        int     `json:"moves"`
	MoveBytes    float64 `json:"moveBytes"`
	MovePause    float64 `json:"movePause"`
	AbortedMoves int     `json:"abortedMoves"`
	PingPong     int     `json:"pingPong"`

	ScaleOuts int `json:"scaleOuts"`
	ScaleIns  int `json:"scaleIns"`
	Resizes   int `json:"resizes"`
	// Failures are of servers; Recovered are actors that were put elsewhere then. Ignored are
	// failures of what was not there.
	Failures  int `json:"failures"`
	Recovered int `json:"recovered"`
	Ignored   int `json:"ignored"`

	// Plans is how often the planner was asked, Shadowed how many actions a policy in shadow
	// mode would have had done.
	Plans    int `json:"plans"`
	Shadowed int `json:"shadowed"`
	// Invalid counts actions that couldn't be done, by what was wrong with them.
	Invalid map[string]int `json:"invalid,omitempty"`

	// Names are the servers' in the order of their start.
	Names   []string `json:"names"`
	Windows []Window `json:"windows"`
	// Done and NotDone are the last decisions of both kinds.
	Done    []Decided `json:"done,omitempty"`
	NotDone []Decided `json:"notDone,omitempty"`
}

// Latency is of requests, in milliseconds.
type Latency struct {
	Count uint64  `json:"count"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P95   float64 `json:"p95"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p999"`
	Max   float64 `json:"max"`
}

// Window is the time between two plans.
type Window struct {
	At         time.Duration `json:"at"` // its end
	Length     time.Duration `json:"length"`
	Servers    int           `json:"servers"`  // that serve or drain
	Starting   int           `json:"starting"` // and those that will
	Actors     int           `json:"actors"`
	Requests   uint64        `json:"requests"`
	Answered   uint64        `json:"answered"`
	Latency    model.Latency `json:"latency"` // of requests
	Moves      int           `json:"moves"`
	Overloaded int           `json:"overloaded"`
	// MaxOverMean is 0 if there was no load.
	MaxOverMean float64 `json:"maxOverMean"`
	Loads       []Load  `json:"loads"`
}

// Load is what a server used in a window, as shares of its limits.
type Load struct {
	Server   int32   `json:"server"` // index into Result.Names
	CPU      float32 `json:"cpu"`
	Mem      float32 `json:"mem"`
	Net      float32 `json:"net"`
	Draining bool    `json:"draining,omitempty"`
}

// Decided is a decision, and when it was made.
type Decided struct {
	At time.Duration `json:"at"`
	model.Decision
}

// maxDecided is how many decisions of each kind a result keeps.
const maxDecided = 2000

// Throughput is how many requests were answered per second.
func (r *Result) Throughput() float64 {
	if r.Duration <= 0 {
		return 0
	}
	return float64(r.Answered) / r.Duration.Seconds()
}

// Unanswered are the requests that got no answer: those that failed, and those still open.
func (r *Result) Unanswered() uint64 { return r.Failed + r.Open }

// InvalidActions is how many actions couldn't be done.
func (r *Result) InvalidActions() int {
	n := 0
	for _, k := range r.Invalid {
		n += k
	}
	return n
}

func newResult(w *world.World, o Options) *Result {
	return &Result{
		World: w.Name, Seed: o.Seed, Duration: o.Duration, Period: o.Period, Bound: o.Overload,
		Invalid: map[string]int{},
	}
}

// latencies is a histogram of microseconds up to an hour, to three digits, with its exact mean.
type latencies struct {
	histogram *hdrhistogram.Histogram
	sum       float64
	count     uint64
}

func newLatencies() latencies {
	return latencies{histogram: hdrhistogram.New(1, int64(time.Hour/time.Microsecond), 3)}
}

func (l *latencies) add(ns int64) {
	us := min(max(ns/1000, 1), int64(time.Hour/time.Microsecond))
	_ = l.histogram.RecordValue(us) // it is within the histogram's range
	l.sum += float64(ns)
	l.count++
}

func (l *latencies) latency() Latency {
	if l.count == 0 {
		return Latency{}
	}
	at := func(q float64) float64 { return float64(l.histogram.ValueAtQuantile(q)) / 1e3 }
	return Latency{
		Count: l.count, Mean: l.sum / float64(l.count) / 1e6,
		P50: at(50), P95: at(95), P99: at(99), P999: at(99.9), Max: float64(l.histogram.Max()) / 1e3,
	}
}

// finish ends the sums.
func (r *run) finish() *Result {
	if r.now > r.window.began {
		r.close()
	}
	for i := range r.servers {
		s := &r.servers[i]
		if !s.gone && s.state != model.Down {
			r.unpay(s)
		}
		r.result.Names = append(r.result.Names, s.id)
	}
	r.level(0)
	res := r.result
	res.Open = uint64(r.window.open)
	res.MeanOpen = r.window.area / float64(r.options.Duration)
	res.Latency = r.window.total.latency()
	n := 0
	for _, w := range res.Windows {
		if w.At <= r.world.Warmup || w.MaxOverMean == 0 {
			continue
		}
		n++
		res.MaxOverMean += w.MaxOverMean
		res.WorstMaxOverMean = max(res.WorstMaxOverMean, w.MaxOverMean)
	}
	if n > 0 {
		res.MaxOverMean /= float64(n)
	}
	return res
}

// decided keeps a plan's decisions, the last ones if there are too many.
func (r *run) decided(p *model.Plan) {
	at := time.Duration(r.now)
	for _, d := range p.Decisions {
		to := &r.result.NotDone
		if d.Done {
			to = &r.result.Done
		}
		if len(*to) >= 2*maxDecided {
			*to = append((*to)[:0], (*to)[maxDecided:]...)
		}
		*to = append(*to, Decided{at, d})
	}
}
