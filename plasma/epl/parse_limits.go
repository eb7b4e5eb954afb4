package epl

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// maxTime is the longest duration in a policy: a thousand days.
const maxTime = 1000 * 24 * time.Hour

// limits reads limits { ... }.
func (p *parser) limits() {
	l := &Limits{Span: p.tok.Span}
	p.advance()
	p.advance()
	for p.tok.kind != eof && !p.tok.is("}") && !p.startsRule() {
		p.limit(l)
		p.expect(";", "each limit ends with a semicolon")
		if p.bad {
			p.skipTo(";", "}")
			p.bad = false
			p.accept(";")
		}
	}
	p.expect("}", "")
	p.to(&l.Span)
	if p.policy.Limits != nil {
		p.report(l.Span, "limits are given twice", "put both into one")
		return
	}
	p.policy.Limits = l
}

// startsRule tells that a "}" is missing.
func (p *parser) startsRule() bool {
	return p.head() || p.tok.is("mode") || p.tok.is("limits")
}

func (p *parser) limit(l *Limits) {
	at := p.tok.Span
	kinds := []string{"servers", "moves", "cooldown", "period"}
	which, _ := p.oneOf(kinds...)
	if p.bad {
		return
	}
	twice := false
	switch which {
	case "servers":
		twice, l.Servers = l.Servers != nil, p.servers()
		l.Servers.Pos = at.Pos
	case "moves":
		twice, l.Moves = l.Moves != nil, p.moves()
		l.Moves.Pos = at.Pos
	case "cooldown":
		twice, l.Cooldown = l.Cooldown != nil, p.cooldown()
		l.Cooldown.Pos = at.Pos
	case "period":
		twice, l.Period = l.Period != nil, p.duration()
		l.Period.Pos = at.Pos
		p.to(&l.Period.Span)
	}
	if twice {
		p.report(at, which+" is given twice", "leave out one")
	}
}

func (p *parser) servers() *Range {
	r := &Range{}
	r.Low = p.whole("the least number of servers", 1_000_000)
	p.expect("..", "servers are given as 2..20")
	r.High = p.whole("the greatest number of servers", 1_000_000)
	p.to(&r.Span)
	return r
}

func (p *parser) moves() *Moves {
	m := &Moves{}
	n, err := strconv.ParseFloat(p.tok.text, 64)
	if p.tok.kind != number || err != nil || n > 1e9 {
		p.fail("a number of moves or a percentage", "write: moves 5% per 10s")
		return m
	}
	m.Count = n
	at := p.tok.Span
	p.advance()
	m.Percent = p.accept("%")
	if !m.Percent && n != math.Trunc(n) {
		p.report(at, "a number of moves has no fraction", "or is it a percentage? Then write %")
	}
	p.expect("per", "write: moves 5% per 10s")
	m.Per = p.duration().Value
	p.to(&m.Span)
	return m
}

func (p *parser) cooldown() *Cooldown {
	c := &Cooldown{}
	up, down := false, false
	for !p.bad && (!up && p.tok.is("up") || !down && p.tok.is("down")) {
		if p.accept("up") {
			up, c.Up = true, p.duration().Value
		} else if p.accept("down") {
			down, c.Down = true, p.duration().Value
		}
	}
	if !up && !down {
		p.fail(`"up" or "down"`, "write: cooldown up 5s down 120s")
	}
	p.to(&c.Span)
	return c
}

// duration reads a time in s or ms.
func (p *parser) duration() *Duration {
	d := &Duration{Span: p.tok.Span}
	if p.bad {
		return d
	}
	n := Number{Text: p.tok.text}
	unit := n.Unit()
	value, err := strconv.ParseFloat(strings.TrimSuffix(n.Text, unit), 64)
	if p.tok.kind != number || err != nil || unit != "s" && unit != "ms" {
		hint := "write 30s or 500ms"
		if unit == "m" || unit == "h" {
			hint = "write seconds: 60s"
		}
		p.fail("a time", hint)
		return d
	}
	ms := value * units[unit]
	if ms != math.Trunc(ms) || ms > float64(maxTime.Milliseconds()) {
		p.fail("a time of whole milliseconds, of 1000 days at most", "")
		return d
	}
	d.Value = time.Duration(ms) * time.Millisecond
	p.advance()
	return d
}
