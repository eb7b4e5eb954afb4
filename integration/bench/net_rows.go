package bench

import "fmt"

// Microseconds is the unit of rows about single packets.
var Microseconds = Unit{"us", false}

// Rows of each phase.
var (
	rowsOfLives  = []string{"cni-add", "cni-add-agent", "cni-del"}
	rowsOfOffers = []string{"attach-from-pool"}
	rowsOfPaths  = []string{"pingpong-bridge", "pingpong-overlay", "tcp-overlay"}
	rowsOfCrowd  = []string{"cni-add-1000"}
	rowsOfBurst  = []string{"cni-add-parallel"}
)

// netRows makes the rows of what was measured.
func netRows(s samples, notes netNotes) []Row {
	adds, dels, gone := s["ADD"], s["DEL"], s["gone"]
	median := func(s Series) string { return Digits(s.Median()) }
	rows := []Row{
		Compare("cni-add", Milliseconds, adds[falcon], bridge, adds[bridge], fmt.Sprintf(
			"the whole command, with gateway, default route, masquerading and host-local on both; without masquerading the reference takes %s ms",
			median(adds[unmasked]))),
		Compare("cni-add-agent", Milliseconds, adds[falconAPI], bridge, adds[bridge], "the agent's part alone, against the reference's whole command"),
		Compare("cni-del", Milliseconds, dels[falcon], bridge, dels[bridge], fmt.Sprintf(
			"the whole command; ours leaves the link to the agent to delete, and it is gone %s ms later; without masquerading the reference takes %s ms",
			median(gone[falcon]), median(dels[unmasked]))),
		Compare("attach-from-pool", Milliseconds, s["offer"][pooled], bridge, s["offer"][bridge],
			"a namespace made ahead is taken and ADDed by the agent, against the reference's whole ADD"),
	}
	reference := "the reference is left out of a quick run"
	if all := s["burst"][bridge]; len(all) > 0 || notes.failed[bridge] > 0 {
		reference = fmt.Sprintf("by the reference in %s ms with a p99 of %s ms and %d failed",
			median(all), Digits(s["burst-ADD"][bridge].quantile(0.99)), notes.failed[bridge])
	}
	rows = append(rows, growth("cni-add-parallel", s["burst-ADD"][falcon].Median(), s["burst-ADD"][falcon].quantile(0.99), "its own p99",
		s["burst-ADD"][falcon], s["burst-ADD"][falcon], fmt.Sprintf(
			"%d at once, whole commands, median of each against its p99: less is better; all done in %s ms and %d failed; %s",
			notes.burst, median(s["burst"][falcon]), notes.failed[falcon], reference)))
	few, many := s["crowd-exec"]["few"], s["crowd-exec"]["many"]
	fewCalls, manyCalls := s["crowd-agent"]["few"], s["crowd-agent"]["many"]
	rows = append(rows, growth("cni-add-1000", few.Median(), many.Median(), fmt.Sprintf("with %d", notes.crowd), few, many, fmt.Sprintf(
		"the whole command on a node with few containers against one with %d: less is better; of the agent's part alone %s times, %s ms and %s ms",
		notes.crowd, Digits(manyCalls.Median()/fewCalls.Median()), median(fewCalls), median(manyCalls))))
	path := func(name string, unit Unit, peer, note string) Row {
		return Compare(name, unit, s[name][falcon], peer, s[name][peer], note)
	}
	return append(
		rows,
		path("pingpong-bridge", Microseconds, bridge, "a round trip of UDP between two containers of a node; what each container sends is checked by ours only"),
		path("pingpong-overlay", Microseconds, unguarded, "the same between two nodes; the peer is the same devices and routes with nobody who looks at packets"),
		path("tcp-overlay", MiBPerSecond, unguarded, "one stream between two nodes, against the same peer"),
	)
}

// growth is a row of how much more something takes in a worse case than in a better one,
// both of them ours: its ratio is better the less it is.
func growth(name string, better, worse float64, worseName string, ours, peer Series, note string) Row {
	return Row{
		Name: name, Unit: Milliseconds.Name, Ours: better, Peer: worse, PeerName: worseName, Ratio: worse / better,
		N: min(len(ours), len(peer)), P99Ours: ours.quantile(0.99), P99Peer: peer.quantile(0.99), Note: note,
	}
}
