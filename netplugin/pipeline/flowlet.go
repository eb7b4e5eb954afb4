package pipeline

import "time"

// Drain is how long a flow must have sent nothing before its packets may go to another
// core: by then the old core's queue has none of them left, so that they can't overtake each
// other. A queue of 4096 takes 20 ms, at 4.9 us for a packet; the rest is for its thread to
// get the core, which it has to share.
const Drain = 100 * time.Millisecond

// Entry is what BPF remembers of a flow at a stage. A new one is zero, and so is a
// generation nowhere else.
type Entry struct {
	CPU        int32  // or Stay
	Generation uint32 // of the sets and of on and off, that the CPU was chosen in
	LastSeen   uint64 // ns since boot
}

// Next is the core of a packet that arrives at now, in ns since boot. It is the flow's as
// long as the flow never paused for [Drain]; only after that, or in another generation,
// choose is asked, as [Choose] answers. A core that went offline must not be waited for,
// nor may a flow that never pauses keep a pipeline on that is off: a change of generation
// may reorder a flow's packets, once.
//
// Cores that have packets of one flow at the same time may each ask; the last to write
// wins.
func (e *Entry) Next(now uint64, generation uint32, choose func() int) int {
	// Another core's clock may have been a little ahead: such a pause is negative.
	if e.Generation != generation || int64(now-e.LastSeen) > Drain.Nanoseconds() {
		e.CPU, e.Generation = int32(choose()), generation
	}
	e.LastSeen = now
	return int(e.CPU)
}
