package bench

import "fmt"

// shimRows makes the rows of what was measured.
func shimRows(s samples) []Row {
	less := func(what, peer, note string) Row {
		return Compare(what+"-vs-"+peer, Milliseconds, s[what][flashcube], peer, s[what][peer], note)
	}
	rows := []Row{
		less("start", runc, "NewTask and Start of a made container; "+tail(s["start"], runc)),
		less("start", crun, tail(s["start"], crun)),
		less("start", floor, "the floor is a shim that does nothing: what containerd needs itself"),
	}
	above := map[string]Series{}
	for _, name := range []string{flashcube, runc, crun} {
		above[name] = difference(s["start"][name], s["start"][floor])
	}
	for _, peer := range []string{runc, crun} {
		rows = append(rows, Compare("start-above-floor-vs-"+peer, Milliseconds, above[flashcube], peer, above[peer],
			"what the runtime adds to the floor of the same round"))
	}
	rows = append(
		rows,
		less("delete", runc, "task.Delete of a task that has exited"),
		less("exec", runc, "task.Exec and Start of true, until Start has returned"),
		less("exec-to-exit", runc, "the same until true has exited"),
	)
	for _, burst := range []struct {
		what, peer string
	}{{"burst-8", crun}, {"burst-32", runc}} {
		note := fmt.Sprintf("NewTask and Start at once; the pool had %s parts ready", Digits(s[burst.what+"-parts"][flashcube].Median()))
		rows = append(rows, Compare(burst.what+"-vs-"+burst.peer, PerSecond,
			s[burst.what][flashcube], burst.peer, s[burst.what][burst.peer], note))
	}
	return append(
		rows,
		less("cold", crun, "start with no part ready and no daemon"),
		less("ctr-run", runc, "the whole of ctr run --rm --seccomp, true"),
		Compare("memory-per-part", KiB, s["memory"][flashcube], "runc's shim", s["memory"][runc],
			"proportional set size; ours is shim and cube of a ready part, the peer's the shim of a running container"),
	)
}

// tail says how far the worst starts are from the median.
func tail(s map[string]Series, peer string) string {
	times := func(s Series) string { return Digits(s.quantile(0.99) / s.Median()) }
	return fmt.Sprintf("p99 is %s times the median, of %s %s times", times(s[flashcube]), peer, times(s[peer]))
}

// difference subtracts samples of the same rounds.
func difference(a, b Series) Series {
	var d Series
	for i := range min(len(a), len(b)) {
		d = append(d, a[i]-b[i])
	}
	return d
}
