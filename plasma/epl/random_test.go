package epl

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// maker makes random trees, as the parser would.
type maker struct {
	*rand.Rand
	mode Mode
	vars []string // of the rule in hand, with types
}

func pick[T any](m *maker, from ...T) T { return from[m.IntN(len(from))] }

func (m *maker) policy() *Policy {
	p := &Policy{Mode: m.mode}
	if m.mode == Full {
		p.Shadow = m.IntN(4) == 0
		if m.IntN(2) == 0 {
			p.Limits = m.limits()
		}
	}
	for range m.IntN(6) {
		p.Rules = append(p.Rules, m.rule())
	}
	return p
}

func (m *maker) duration() *Duration {
	return &Duration{Value: time.Duration(m.IntN(100000)) * time.Millisecond}
}

func (m *maker) limits() *Limits {
	l := &Limits{}
	if m.IntN(2) == 0 {
		l.Servers = &Range{Low: m.IntN(10), High: m.IntN(100)}
	}
	if m.IntN(2) == 0 {
		l.Moves = &Moves{Count: float64(m.IntN(100)), Per: m.duration().Value}
		if m.IntN(2) == 0 {
			l.Moves.Percent, l.Moves.Count = true, l.Moves.Count/8
		}
	}
	if m.IntN(2) == 0 {
		l.Cooldown = &Cooldown{Up: m.duration().Value, Down: m.duration().Value}
	}
	if m.IntN(2) == 0 {
		l.Period = m.duration()
	}
	return l
}

func (m *maker) rule() *Rule {
	m.vars = nil
	for range m.IntN(4) {
		m.vars = append(m.vars, fmt.Sprintf("v%d", len(m.vars)))
	}
	r := &Rule{}
	if m.mode == Full && m.IntN(2) == 0 {
		r.Name, r.Priority = pick(m, "", "hot", "rule", "priority", "x1_y"), m.IntN(3)
	}
	r.When = m.cond(4)
	for range m.IntN(4) {
		r.Do = append(r.Do, m.behavior())
	}
	// Variables that are used have to have a type somewhere.
	for _, v := range m.vars {
		r.Do = append(r.Do, &Behavior{Verb: Pin, Actors: []*Actor{{Type: m.typ(), Var: v}}})
	}
	return r
}

func (m *maker) typ() string { return pick(m, "Folder", "File", "any", "rule", "cpu", "T_9") }

func (m *maker) actor() *Actor {
	if len(m.vars) > 0 && m.IntN(2) == 0 {
		a := &Actor{Var: pick(m, m.vars...)}
		if m.IntN(3) == 0 {
			a.Type = m.typ()
		}
		return a
	}
	return &Actor{Type: m.typ()}
}

// cond makes a condition whose operators bind as they would when read: an or has no or on its
// right, an and no or on either side.
func (m *maker) cond(depth int) Cond {
	if depth > 0 && m.IntN(2) == 0 {
		return &Or{X: m.cond(depth - 1), Y: m.and(depth - 1)}
	}
	return m.and(depth)
}

func (m *maker) and(depth int) Cond {
	if depth > 0 && m.IntN(2) == 0 {
		return &And{X: m.and(depth - 1), Y: m.one(depth - 1)}
	}
	return m.one(depth)
}

func (m *maker) one(depth int) Cond {
	if m.mode == Full && depth > 0 {
		switch m.IntN(4) {
		case 0:
			return &Not{X: m.one(depth - 1)}
		case 1:
			return &Paren{X: m.cond(depth - 1)}
		}
	}
	switch m.IntN(6) {
	case 0:
		return &True{}
	case 1:
		return &In{X: m.actor(), Of: m.actor(), Name: pick(m, "files", "in", "balance")}
	}
	return m.compare()
}

func (m *maker) compare() Cond {
	c := &Compare{Feature: m.feature(), Op: pick(m, Less, Greater, LessEqual, GreaterEqual)}
	whole := m.IntN(10000)
	c.Value = Number{Value: float64(whole) / 4, Text: fmt.Sprintf("%d.%02d", whole/4, whole%4*25)}
	if m.mode == Paper {
		return c
	}
	if m.IntN(5) == 0 {
		c.Op = Equal
	}
	if m.IntN(4) == 0 {
		unit := pick(m, "KiB", "MiB", "GiB", "ms", "s")
		c.Value.Text += unit
		c.Value.Value *= units[unit]
	}
	if m.IntN(4) == 0 {
		c.Over = m.duration()
	}
	if m.IntN(4) == 0 {
		c.For = m.duration()
	}
	return c
}

func (m *maker) feature() *Feature {
	f := &Feature{Kind: Resource, Name: pick(m, resources...), Stat: pick(m, "count", "size", "perc")}
	if m.IntN(2) == 0 {
		f.Entity = m.actor()
	}
	kinds := 2
	if m.mode == Full {
		kinds = 5
	}
	switch f.Kind = Kind(m.IntN(kinds)); f.Kind {
	case Call:
		f.Caller, f.Entity, f.Name = f.Entity, m.actor(), pick(m, "open", "pin", "call")
	case Latency:
		f.Name, f.Stat = "latency", pick(m, "mean", "p50", "p95", "p99")
	case Queue:
		f.Name, f.Stat = "queue", "len"
	case Metric:
		f.Name, f.Stat = pick(m, "a", "in flight", "// no comment", "ä;"), ""
	}
	return f
}

func (m *maker) behavior() *Behavior {
	b := &Behavior{Verb: Verb(pick(m, verbs...))}
	switch b.Verb {
	case Balance:
		for range m.IntN(4) {
			b.Actors = append(b.Actors, &Actor{Type: m.typ()})
		}
		b.Resource = pick(m, resources...)
	case Reserve:
		b.Actors, b.Resource = []*Actor{m.actor()}, pick(m, resources...)
	case Pin:
		b.Actors = []*Actor{m.actor()}
	default:
		b.Actors = []*Actor{m.actor(), m.actor()}
		if m.mode == Full {
			b.Level = pick(m, Server, Node, Zone)
		}
	}
	return b
}

// What is printed of any tree reads as the same tree, and is formatted already.
func TestRoundTrip(t *testing.T) {
	for seed := range uint64(300) {
		m := &maker{Rand: rand.New(rand.NewPCG(seed, 1)), mode: Mode(seed % 2)}
		p := m.policy()
		text := p.String()
		q, err := Parse("x.epl", []byte(text), m.mode)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, text)
		}
		if dump(q) != dump(p) {
			t.Fatalf("seed %d: %s\ngot\n%s\nwant\n%s", seed, text, dump(q), dump(p))
		}
		if got, err := Format("x.epl", []byte(text), m.mode); err != nil || string(got) != text {
			t.Fatalf("seed %d: not formatted: %v\n%s\n%s", seed, err, text, got)
		}
		disturb(t, m, seed, text)
	}
}

// disturb puts comments and space between the tokens of a formatted text: formatting keeps the
// comments, the tree, and what it gave.
func disturb(t *testing.T, m *maker, seed uint64, text string) {
	t.Helper()
	var b strings.Builder
	lex := newLexer([]byte(text))
	for {
		tok := lex.next()
		for range m.IntN(3) {
			b.WriteString(pick(m, " ", "\n", "\r\n", "\t", "// c\n", "/* d */", "/* e\n   f */ ", "\n\n\n", " "))
		}
		b.WriteString(pick(m, " ", "\n"))
		if tok.kind == eof {
			break
		}
		b.WriteString(tok.text)
	}
	p, err := Parse("x.epl", []byte(text), m.mode)
	if err != nil {
		t.Fatal(err)
	}
	q, err := Parse("x.epl", []byte(b.String()), m.mode)
	if err != nil {
		t.Fatalf("seed %d: %v\n%s", seed, err, b.String())
	}
	p.Comments = q.Comments
	if dump(p) != dump(q) {
		t.Fatalf("seed %d: comments change the tree:\n%s", seed, b.String())
	}
	formats(t, b.String(), m.mode)
}

// formats checks that formatting changes neither tree nor comments, and nothing the second time.
func formats(t *testing.T, text string, mode Mode) {
	t.Helper()
	p, err := Parse("x", []byte(text), mode)
	if err != nil {
		return
	}
	once, err := Format("x", []byte(text), mode)
	if err != nil {
		t.Fatal(err)
	}
	q, err := Parse("x", once, mode)
	if err != nil {
		t.Fatalf("can't be read when formatted: %v\n%s\n%s", err, text, once)
	}
	for i := range p.Comments {
		p.Comments[i].Text = strings.ReplaceAll(p.Comments[i].Text, "\r\n", "\n")
	}
	if dump(p) != dump(q) {
		t.Fatalf("formatting changes the tree:\n%q\n%q\n%s\n%s", text, once, dump(p), dump(q))
	}
	twice, err := Format("x", once, mode)
	if err != nil || !bytes.Equal(once, twice) {
		t.Fatalf("formatting again changes the text: %v\n%s\n--\n%s\n--\n%s", err, text, once, twice)
	}
	r, err := Parse("x", []byte(p.String()), mode)
	if err != nil {
		t.Fatalf("can't be read when printed: %v\n%s", err, p)
	}
	p.Comments = nil
	if dump(r) != dump(p) {
		t.Fatalf("printing changes the tree:\n%s\n%s", text, p)
	}
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*/*.epl")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), false)
	}
	f.Fuzz(func(t *testing.T, text string, paper bool) {
		mode := Full
		if paper {
			mode = Paper
		}
		p, err := Parse("x.epl", []byte(text), mode)
		if err != nil {
			for _, e := range err.(Errors) {
				if e.Message == "" || e.Pos.Line < 1 || e.End.Offset > len(text) || e.End.Offset < e.Pos.Offset {
					t.Errorf("error %+v", e)
				}
				e.Excerpt([]byte(text))
			}
		}
		_ = p.String()
		formats(t, text, mode)
	})
}
