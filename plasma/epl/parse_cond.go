package epl

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// or reads conditions with "or" between them: what binds least.
func (p *parser) or() Cond {
	x := p.and()
	for p.accept("or") {
		y := p.and()
		x = &Or{Span: Span{x.Where().Pos, p.last}, X: x, Y: y}
	}
	return x
}

func (p *parser) and() Cond {
	x := p.not()
	for p.accept("and") {
		y := p.not()
		x = &And{Span: Span{x.Where().Pos, p.last}, X: x, Y: y}
	}
	return x
}

// not reads a condition without "and" and "or", but in parentheses.
func (p *parser) not() Cond {
	if p.terms++; p.terms > maxTerms {
		p.report(p.tok.Span, fmt.Sprintf("the condition has more than %d parts", maxTerms), "make several rules of it")
		p.bad = true
	}
	if p.depth++; p.depth > maxDepth {
		p.report(p.tok.Span, fmt.Sprintf("parentheses and nots are more than %d deep", maxDepth), "")
		p.bad = true
	}
	defer func() { p.depth-- }()
	at := p.tok.Span
	switch {
	case p.bad:
		return &True{Span: at}
	case p.tok.is("not"):
		p.extension(at, `"not"`)
		p.advance()
		c := &Not{Span: at, X: p.not()}
		p.to(&c.Span)
		return c
	case p.tok.is("("):
		p.extension(at, "a parenthesis around a condition")
		p.advance()
		c := &Paren{Span: at, X: p.or()}
		p.expect(")", "")
		p.to(&c.Span)
		return c
	case p.accept("true"):
		return &True{Span: at}
	}
	return p.term()
}

// term reads a comparison, or X in ref(Of.Name).
func (p *parser) term() Cond {
	at := p.tok.Span
	f := &Feature{Span: at}
	switch {
	case p.accept("server"):
		p.expect(".", "")
		p.feature(f, false)
	case p.accept("client"):
		p.expect(".", "")
		if !p.tok.is("call") {
			p.fail(`"call"`, "of clients only calls are known: client.call(Type.function).count")
		}
		p.call(f)
	default:
		if p.tok.kind != word || slices.Contains(reserved, p.tok.text) && !p.tok.is(Any) {
			p.fail(`a condition: "server", "client", an actor or "true"`, p.unclear)
		}
		x := p.actor()
		if p.tok.is("in") {
			return p.in(x)
		}
		if !p.tok.is(".") {
			hint := p.meant("in")
			if hint == "" {
				hint = p.unclear
			}
			p.fail(`"." or "in"`, hint)
		}
		p.accept(".")
		f.Entity = x
		p.feature(f, true)
	}
	p.to(&f.Span)
	return p.compare(f)
}

func (p *parser) in(x *Actor) Cond {
	c := &In{Span: x.Span, X: x}
	p.accept("in")
	p.expect("ref", "write: File(fi) in ref(fo.files)")
	p.expect("(", "")
	c.Of = p.actor()
	p.expect(".", "ref takes a property of an actor: ref(fo.files)")
	c.Name, c.NameAt = p.member("a property")
	p.expect(")", "")
	p.to(&c.Span)
	return c
}

// feature reads what follows the dot after an entity.
func (p *parser) feature(f *Feature, calls bool) {
	wants := append(slices.Clone(resources), "latency", "queue", "metric")
	if calls {
		wants = append(wants, "call")
	}
	if p.policy.Mode == Paper {
		wants = slices.DeleteFunc(wants, func(s string) bool { return s == "latency" || s == "queue" || s == "metric" })
	}
	f.Name, f.NameAt = p.tok.text, p.tok.Span
	switch {
	case p.tok.is("call") && !calls:
		p.fail(list(wants), "servers don't call: clients and actors do")
	case p.tok.is("call"):
		f.Caller, f.Entity = f.Entity, nil
		p.call(f)
	case p.tok.is("latency"):
		f.Kind = Latency
		p.extension(p.tok.Span, `"latency"`)
		p.advance()
		p.stat(f, "mean", "p50", "p95", "p99")
	case p.tok.is("queue"):
		f.Kind = Queue
		p.extension(p.tok.Span, `"queue"`)
		p.advance()
		p.stat(f, "len")
	case p.tok.is("metric"):
		f.Kind = Metric
		p.extension(p.tok.Span, `"metric"`)
		p.advance()
		p.metric(f)
	case p.tok.kind == word && slices.Contains(resources, p.tok.text):
		p.advance()
		p.stat(f, "count", "size", "perc")
	default:
		p.fail(list(wants), p.meant(wants...))
	}
}

// call reads call(Actor.function).stat.
func (p *parser) call(f *Feature) {
	f.Kind = Call
	p.accept("call")
	p.expect("(", "calls are written: client.call(Folder(fo).open).count")
	f.Entity = p.actor()
	p.expect(".", "calls are of a function: client.call(Folder(fo).open).count")
	f.Name, f.NameAt = p.member("a function")
	p.expect(")", "")
	p.stat(f, "count", "size", "perc")
}

func (p *parser) stat(f *Feature, stats ...string) {
	p.expect(".", "say what of it: "+list(stats))
	f.Stat, f.StatAt = p.oneOf(stats...)
}

func (p *parser) metric(f *Feature) {
	p.expect("(", `metrics are written: server.metric("inflight")`)
	f.Name, f.NameAt = p.tok.text, p.tok.Span
	if n := len(f.Name); p.tok.kind != quoted || n < 3 || n > maxName {
		p.fail("the metric's name in quotes", "")
		return
	}
	f.Name = f.Name[1 : len(f.Name)-1]
	p.advance()
	p.expect(")", "")
}

func (p *parser) compare(f *Feature) Cond {
	c := &Compare{Span: f.Span, Feature: f, Op: Op(p.tok.text)}
	switch c.Op {
	case Equal:
		p.extension(p.tok.Span, `"=="`)
	case Less, Greater, LessEqual, GreaterEqual:
	default:
		hint := ""
		if p.tok.is("in") {
			hint = "only actors are in references"
		}
		p.fail(`a comparison: "<", ">", "<=" or ">="`, hint)
	}
	if !p.bad {
		p.advance()
	}
	c.Value = p.value()
	if p.tok.is("over") {
		p.extension(p.tok.Span, `"over"`)
		p.advance()
		c.Over = p.duration()
	}
	if p.tok.is("for") {
		p.extension(p.tok.Span, `"for"`)
		p.advance()
		c.For = p.duration()
	}
	p.to(&c.Span)
	return c
}

// units are factors of numbers: to bytes, or to milliseconds.
var units = map[string]float64{"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "ms": 1, "s": 1000}

// Unit gives the number's unit: KiB, MiB, GiB, ms, s or "".
func (n Number) Unit() string { return strings.TrimLeft(n.Text, "0123456789.") }

// value reads a number with or without a unit.
func (p *parser) value() Number {
	n := Number{Span: p.tok.Span, Text: p.tok.text}
	if p.bad || p.tok.kind != number {
		p.fail("a number", "")
		return n
	}
	unit := n.Unit()
	factor, ok := units[unit]
	if !ok {
		p.fail(`a number, with "KiB", "MiB", "GiB", "ms", "s" or no unit`, unitHint(unit))
		return n
	}
	if unit != "" {
		p.extension(n.Span, "the unit "+unit)
	}
	value, err := strconv.ParseFloat(strings.TrimSuffix(n.Text, unit), 64)
	if err != nil || len(n.Text) > 30 {
		p.fail("a number of at most 30 digits", "")
		return n
	}
	n.Value = value * factor
	p.advance()
	return n
}

func unitHint(unit string) string {
	switch strings.ToLower(unit) {
	case "k", "kb", "kib":
		return "write KiB: 1024 bytes"
	case "m", "mb", "mib":
		return "write MiB for 1048576 bytes; minutes are written in seconds"
	case "g", "gb", "gib":
		return "write GiB: 1073741824 bytes"
	case "min", "h", "d", "sec", "secs", "seconds":
		return "write seconds: 60s"
	}
	return ""
}
