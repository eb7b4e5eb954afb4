package bench

import "fmt"

// Units of the fast path's rows.
var (
	Nanoseconds = Unit{"ns", false}
	Share       = Unit{"of 1", true}
)

// Rows of each phase.
var (
	rowsOfCPU     = []string{"cpu-per-packet", "cpu-per-packet-vs-host"}
	rowsOfLoads   = []string{"tcp-stream", "tcp-rr", "udp-rr"}
	rowsOfFloods  = []string{"prio-latency-avg", "prio-latency-p99", "prio-p99-vs-idle", "low-delivered", "low-delivered-busy"}
	rowsOfCaching = []string{"memcached-p99"}
	rowsOfServing = []string{"web-serving"}
)

// fastRows makes the rows of the fast path.
func fastRows(s samples) []Row {
	row := func(name, what string, unit Unit, note string) Row {
		return Compare(name, unit, s[what][falcon], slow, s[what][slow], note)
	}
	median := func(what, way string) string { return Digits(s[what][way].Median()) }
	packets := s["cpu-per-packet"]
	rates := fmt.Sprintf("beside %s thousand packets/s of class low, of the peer %s", Digits(s["flooded"][falcon].Median()/1e3), Digits(s["flooded"][slow].Median()/1e3))
	idle := Compare("prio-p99-vs-idle", Microseconds, s["prio-p99"][falcon], "ours, idle", s["idle-p99"][falcon],
		fmt.Sprintf("ours beside the flood against ours without it; the peer's p99 is %s us without", median("idle-p99", slow)))
	return []Row{
		row("cpu-per-packet", "cpu-per-packet", Nanoseconds, fmt.Sprintf(
			"CPU time of the receiving node for a UDP packet of %d bytes to a container, whose socket drops it: bursts of %d are sent from the other node by a thread "+
				"on whose core all of it is done; the median burst, less the same to a node that isn't there, %s and %s ns",
			payload, burst, median("cpu-sending", falcon), median("cpu-sending", slow))),
		Compare("cpu-per-packet-vs-host", Nanoseconds, packets[falcon], host, packets[host], "the same against UDP between the nodes' own addresses"),
		row("tcp-stream", "tcp-stream", MiBPerSecond, "one stream between containers of two nodes, none of a class"),
		row("tcp-rr", "tcp-rr", PerSecond, "one byte back and forth over a TCP connection, all of it on one core"),
		row("udp-rr", "udp-rr", PerSecond, "the same by UDP"),
		row("prio-latency-avg", "prio-avg", Microseconds, "a round trip of UDP of class high "+rates),
		row("prio-latency-p99", "prio-p99", Microseconds, fmt.Sprintf(
			"the p99 of each round's round trips; one that got lost counts as the %s that it was waited for: of ours %s did, of the peer's %s",
			lostAfter, median("prio-lost", falcon), median("prio-lost", slow))),
		idle,
		row("low-delivered", "delivered", Share, "what arrives of the flood, with one packet of high at a time"),
		row("low-delivered-busy", "delivered-busy", Share, fmt.Sprintf("the same beside %d thousand packets/s of high", highRate/1000)),
		row("memcached-p99", "memcached-p99", Microseconds, fmt.Sprintf(
			"%d requests/s over %d connections, 9 in 10 get 1 KiB, from when each is due until it is answered or given up, of class high %s; medians are %s and %s us; of the flood %s and %s arrive",
			cacheRate, cacheConns, "beside the flood", median("memcached-median", falcon), median("memcached-median", slow),
			median("memcached-delivered", falcon), median("memcached-delivered", slow))),
		row("web-serving", "web-serving", PerSecond, fmt.Sprintf(
			"nginx gives a small page to wrk with 16 connections, of class high beside the flood, of which %s and %s arrive",
			median("web-delivered", falcon), median("web-delivered", slow))),
	}
}
