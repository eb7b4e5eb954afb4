package assemble

import (
	"cmp"
	"slices"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// calls adds what hosts have counted. A caller that nobody reports is a client.
func (b *builder) calls() {
	window, n := b.Window.Seconds(), 0
	for _, i := range b.arrived {
		n += len(b.profile[i].GetReport().GetCalls())
	}
	b.snapshot.Calls = make([]model.Call, 0, n)
	for _, i := range b.arrived {
		p := &b.profile[i]
		if p.seconds == 0 || b.known[i].Plain {
			continue
		}
		factor := window / p.seconds
		for _, c := range p.GetReport().GetCalls() {
			to, ok := b.index[placement.Of(c.GetTo())]
			if !ok {
				continue
			}
			from := int32(model.Client)
			if c.GetFrom() != nil {
				if known, ok := b.index[placement.Of(c.GetFrom())]; ok {
					from = known
				}
			}
			b.snapshot.Calls = append(b.snapshot.Calls, model.Call{
				From: int(from), To: int(to), Function: c.GetFunction(),
				Count: amount(float64(c.GetCount()) * factor), Bytes: amount(float64(c.GetBytes()) * factor),
			})
		}
	}
}

type pair struct{ from, to string }

type traffic struct{ packets, bytes float64 }

// flows adds what the network has counted between containers, for those without a host: others
// know better. Both ends' nodes may have counted the same.
func (b *builder) flows() {
	all := map[pair]traffic{}
	for _, p := range b.Profiles {
		length := seconds(p.GetWindow())
		if length == 0 {
			continue
		}
		factor := b.Window.Seconds() / length
		one := map[pair]traffic{}
		for _, f := range p.GetFlows() {
			key := pair{f.GetFrom(), f.GetTo()}
			t := one[key]
			t.packets += float64(f.GetPackets()) * factor
			t.bytes += float64(f.GetBytes()) * factor
			one[key] = t
		}
		for key, t := range one {
			known := all[key]
			all[key] = traffic{max(known.packets, t.packets), max(known.bytes, t.bytes)}
		}
	}
	for key, t := range all {
		to, ok := b.container(key.to)
		if !ok {
			continue
		}
		from, ok := b.container(key.from)
		if !ok {
			from = model.Client
		}
		b.snapshot.Calls = append(b.snapshot.Calls, model.Call{
			From: int(from), To: int(to), Function: Connection,
			Count: amount(t.packets), Bytes: amount(t.bytes),
		})
	}
}

// container is the actor that a container without a host is.
func (b *builder) container(id string) (int32, bool) {
	i, ok := b.numbers[id]
	if !ok || !b.known[i].Plain {
		return 0, false
	}
	at, ok := b.index[placement.Actor{Type: b.Service, Key: id}]
	return at, ok
}

// order sorts calls, and makes one of those that are alike.
func (b *builder) order() {
	sorted := make([]model.Call, len(b.snapshot.Calls))
	next := make([]int, len(b.entries)+1) // where the next call to each actor goes
	for i := range b.snapshot.Calls {
		next[b.snapshot.Calls[i].To+1]++
	}
	for i := range b.entries {
		next[i+1] += next[i]
	}
	for i := range b.snapshot.Calls {
		to := b.snapshot.Calls[i].To
		sorted[next[to]] = b.snapshot.Calls[i]
		next[to]++
	}
	n, begin := 0, 0
	for _, end := range next[:len(b.entries)] {
		// By their amounts, too: sums depend on the order.
		slices.SortFunc(sorted[begin:end], func(x, y model.Call) int {
			return cmp.Or(cmp.Compare(x.From, y.From), cmp.Compare(x.Function, y.Function), cmp.Compare(x.Count, y.Count), cmp.Compare(x.Bytes, y.Bytes))
		})
		first := n
		for _, c := range sorted[begin:end] {
			if n > first && sorted[n-1].From == c.From && sorted[n-1].Function == c.Function {
				sorted[n-1].Count = amount(sorted[n-1].Count + c.Count)
				sorted[n-1].Bytes = amount(sorted[n-1].Bytes + c.Bytes)
				continue
			}
			sorted[n] = c
			n++
		}
		begin = end
	}
	b.snapshot.Calls = sorted[:min(n, model.MaxCalls)]
}
