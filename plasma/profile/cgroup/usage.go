package cgroup

import "time"

// Reading is what a container has used until a moment.
type Reading struct {
	At time.Time
	// CPU and Throttled are since the container's cgroup was made: time on processors, and time
	// that its limit kept it off them, summed over processors.
	CPU, Throttled time.Duration
	// Memory is what can't be taken back without cost, in bytes: all but files not used lately.
	Memory uint64
	// Network is received and sent since its namespace was made, in bytes; 0 if it has the host's.
	Network uint64
}

// Usage is what a container used between two readings.
type Usage struct {
	CPU       float64 // cores
	Memory    float64 // bytes, at the end
	Network   float64 // bytes per second
	Throttled float64 // share of the time, 0 to 1
}

// Since gives what was used between an earlier reading and this one. Counters that began anew
// count as nothing.
func (r Reading) Since(before Reading) Usage {
	u := Usage{Memory: float64(r.Memory)}
	window := r.At.Sub(before.At)
	if window <= 0 {
		return u
	}
	u.CPU = max(0, float64(r.CPU-before.CPU)/float64(window))
	u.Throttled = min(1, max(0, float64(r.Throttled-before.Throttled)/float64(window)))
	if r.Network > before.Network {
		u.Network = float64(r.Network-before.Network) / window.Seconds()
	}
	return u
}
