package vet

import (
	"fmt"
	"math"
	"slices"

	"github.com/docker/go-units"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/manifest"
)

// leastBand is how many points of percent a balance's two bounds should be apart: what is
// moved from one server to another counts at both.
const leastBand = 10

// bound is a comparison of a server's feature that a balance depends on.
type bound struct {
	*epl.Compare
	rule  *rule
	value float64
}

// band is what balances of a type do about a server's feature: above upper they take load off
// servers, below lower they make them fewer. Of several the narrowest count.
type band struct {
	feature      string
	typ          string
	resource     string
	upper, lower *bound
	balance      *epl.Behavior
}

// bounds says which balances scale in one direction only, or back and forth.
func (c *checker) bounds() {
	bands := c.bands()
	for i, b := range bands {
		c.flaps(b)
		same := func(o *band) bool { return o.typ == b.typ && o.resource == b.resource }
		if slices.IndexFunc(bands, same) == i {
			c.oneSided(bands, same)
		}
	}
	l := c.policy.Limits
	fixed := l != nil && l.Servers != nil && l.Servers.Low >= l.Servers.High
	switch {
	case len(bands) == 0 || fixed || c.policy.Mode == epl.Paper:
	case l == nil || l.Servers == nil:
		at := bands[0].balance.Span
		if l != nil {
			at = l.Span
		}
		c.add(Finding{
			Span: at, Severity: Note, Code: "no-limits",
			Message: "nothing says how many servers there may be", Hint: "write: limits { servers 2..20; }",
		})
	case l.Cooldown == nil:
		c.add(Finding{
			Span: l.Span, Severity: Warning, Code: "no-cooldown",
			Message: "without a cooldown servers are stopped as soon as the load falls, and started again when it is back",
			Hint:    "write: cooldown up 5s down 120s;",
		})
	}
}

func (c *checker) bands() []*band {
	var all []*band
	for _, r := range c.rules {
		for _, b := range r.Do {
			if b.Verb != epl.Balance {
				continue
			}
			for _, t := range b.Actors {
				for _, terms := range r.alternatives {
					for _, x := range terms {
						if x.compare != nil && x.compare.Feature.Entity == nil && x.compare.Feature.Kind == epl.Resource {
							all = widen(all, r, b, t.Type, x)
						}
					}
				}
			}
		}
	}
	return all
}

func widen(all []*band, r *rule, b *epl.Behavior, typ string, x *term) []*band {
	f := x.compare.Feature
	feature := f.String()
	i := slices.IndexFunc(all, func(o *band) bool { return o.feature == feature && o.typ == typ && o.resource == b.Resource })
	if i < 0 {
		i = len(all)
		all = append(all, &band{feature: feature, typ: typ, resource: b.Resource, balance: b})
	}
	o := all[i]
	if low := x.span.low; low > possible(f).low && !r.said[x.compare] && (o.upper == nil || low < o.upper.value) {
		o.upper = &bound{x.compare, r, low}
	}
	if high := x.span.high; high < possible(f).high && !r.said[x.compare] && (o.lower == nil || high > o.lower.value) {
		o.lower = &bound{x.compare, r, high}
	}
	return all
}

// oneSided says if, of the bands of one balance, all have only upper bounds, or only lower.
func (c *checker) oneSided(bands []*band, same func(*band) bool) {
	var upper, lower *band
	for _, b := range bands {
		if same(b) && b.upper != nil && upper == nil {
			upper = b
		}
		if same(b) && b.lower != nil && lower == nil {
			lower = b
		}
	}
	l := c.policy.Limits
	fixed := l != nil && l.Servers != nil && l.Servers.Low >= l.Servers.High
	switch {
	case fixed:
	case upper != nil && lower == nil:
		c.add(Finding{
			Span: upper.upper.Span, Severity: Warning, Code: "no-lower-bound",
			Message: fmt.Sprintf("servers are never given back: balance of %s has only an upper bound", upper.typ),
			Hint:    fmt.Sprintf("write: %s < N or %s", upper.feature, epl.String(upper.upper.Compare)),
			Related: []Related{{upper.balance.Span, "the balance"}},
		})
	case lower != nil && upper == nil:
		c.add(Finding{
			Span: lower.lower.Span, Severity: Warning, Code: "no-upper-bound",
			Message: fmt.Sprintf("servers are never added: balance of %s has only a lower bound", lower.typ),
			Hint:    fmt.Sprintf("write: %s or %s > N", epl.String(lower.lower.Compare), lower.feature),
			Related: []Related{{lower.balance.Span, "the balance"}},
		})
	}
}

// flaps says if a move can take a server from one bound to the other.
func (c *checker) flaps(b *band) {
	if b.upper == nil || b.lower == nil || b.upper.Feature.Stat != "perc" || b.upper.rule == b.lower.rule && covers(
		interval{low: b.upper.value, high: math.Inf(1)}, interval{low: math.Inf(-1), high: b.lower.value}, everything) {
		return // that it always holds was said
	}
	least, why := float64(leastBand), ""
	if c.manifest != nil && b.resource == "mem" {
		part, all := manifest.Bytes(c.manifest.Types[b.typ].State), manifest.Bytes(c.manifest.Server.Memory)
		if share := 100 * float64(part) / float64(max(all, 1)); all > 0 && share > least {
			least, why = share, fmt.Sprintf(": one %s has %s of a server's %s", b.typ, units.BytesSize(float64(part)), units.BytesSize(float64(all)))
		}
	}
	if width := b.upper.value - b.lower.value; width < least {
		c.add(Finding{
			Span: b.upper.Span, Severity: Warning, Code: "flapping",
			Message: fmt.Sprintf("between the bounds of %s are %s points, too few: a move from a server above one brings it below the other%s", b.feature, number(width), why),
			Hint:    fmt.Sprintf("put them %s points apart or more", number(math.Ceil(least))),
			Related: []Related{{b.lower.Span, "the lower bound"}, {b.balance.Span, "the balance of " + b.typ}},
		})
	}
}
