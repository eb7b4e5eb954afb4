// Package epl is the syntax of the elasticity programming language: its tokens, its tree, the
// parser and the printer. What programs mean is in packages ir and plan, whether they make
// sense in package vet.
//
// The language is that of "PLASMA: Programmable Elasticity for Stateful Cloud Computing
// Applications" (EuroSys 2020), section 3, figure 3; Paper keeps to it.
package epl

import (
	"strconv"
	"time"
)

// Mode tells which language a text is in.
type Mode int

const (
	// Full has the extensions that docs/plasma.md describes.
	Full Mode = iota
	// Paper is the grammar as it was published, and nothing else.
	Paper
)

// Pos is a place in a text. Line and Column begin at 1, Column counts bytes; Offset at 0.
type Pos struct {
	Offset, Line, Column int
}

// Span is a part of a text: End is where the first byte after it is.
type Span struct {
	Pos, End Pos
}

// Policy is a parsed text.
type Policy struct {
	Span
	Mode     Mode
	Shadow   bool // mode shadow: plans are made and not carried out
	ShadowAt Span
	Limits   *Limits // nil if there are none
	Rules    []*Rule
	Comments []Comment // in the order of the text
}

// Comment is "// text" to the end of a line, or a whole "/* text */"; Text has the delimiters.
type Comment struct {
	Span
	Text string
}

// Limits bounds what a policy may do: limits { servers 2..20; moves 5% per 10s; period 10s;
// cooldown up 5s down 120s; }. What is not given is nil.
type Limits struct {
	Span
	Servers  *Range
	Moves    *Moves
	Cooldown *Cooldown
	Period   *Duration
}

// Range is low..high, both included.
type Range struct {
	Span
	Low, High int
}

// Moves allows so many moves within a time: a share of all actors in percent, or a number.
type Moves struct {
	Span
	Count   float64
	Percent bool
	Per     time.Duration
}

// Cooldown is how long scaling out (up) and in (down) wait after any scaling; 0 if not given.
type Cooldown struct {
	Span
	Up, Down time.Duration
}

// Duration is a time in the text.
type Duration struct {
	Span
	Value time.Duration
}

// Rule is [rule NAME] [priority N] : When => Do; of which the head is optional.
type Rule struct {
	Span
	Name       string // "" if it has none
	NameAt     Span
	Priority   int // 0 if none is given; the higher goes first
	PriorityAt Span
	When       Cond
	Do         []*Behavior
}

// Cond is a condition: *Or, *And, *Not, *Paren, *True, *Compare or *In.
type Cond interface {
	Where() Span
	cond()
}

// Or holds if X or Y does.
type Or struct {
	Span
	X, Y Cond
}

// And holds if X and Y do; it binds tighter than Or.
type And struct {
	Span
	X, Y Cond
}

// Not holds if X doesn't.
type Not struct {
	Span
	X Cond
}

// Paren is a condition in parentheses.
type Paren struct {
	Span
	X Cond
}

// True always holds.
type True struct {
	Span
}

// Compare compares a feature to a number: Feature Op Value [over Over] [for For].
type Compare struct {
	Span
	Feature *Feature
	Op      Op
	Value   Number
	Over    *Duration // the feature's mean over that time, not over the period
	For     *Duration // it has held for that time
}

// In holds for actors which Of's property Name has references to: X in ref(Of.Name).
type In struct {
	Span
	X      *Actor
	Of     *Actor
	Name   string
	NameAt Span
}

// Op is an operator of comparison.
type Op string

// The operators; Equal is no part of the paper's language.
const (
	Less         Op = "<"
	Greater      Op = ">"
	LessEqual    Op = "<="
	GreaterEqual Op = ">="
	Equal        Op = "=="
)

// Number is a number in the text. Value is in the feature's own unit, with a unit's factor
// (KiB, MiB, GiB; ms, s) applied: bytes, or milliseconds.
type Number struct {
	Span
	Value float64
	Text  string // as written, with its unit
}

// Kind is what a feature measures.
type Kind int

const (
	// Resource is cpu, mem or net of an entity, by a statistic.
	Resource Kind = iota
	// Call is what a function of an actor is called, by a statistic.
	Call
	// Latency is the time that requests take: mean, p50, p95, p99, in milliseconds.
	Latency
	// Queue is how many messages wait: len.
	Queue
	// Metric is a number that the application gives, by name.
	Metric
)

// Feature is a measured value of an entity.
type Feature struct {
	Span
	Kind Kind
	// Entity is whose feature it is: nil is the server. For a Call it's who is called.
	Entity *Actor
	// Caller is who calls: nil for clients. Only for a Call.
	Caller *Actor
	// Name is cpu, mem or net; the function's; or the metric's.
	Name   string
	NameAt Span
	// Stat is count, size or perc; a latency's quantile; len; or "" of a metric.
	Stat   string
	StatAt Span
}

// Actor stands for actors: Type(Var), Type or Var. A name alone is a variable if its rule has
// Type(Var) with it somewhere, before or after, else a type; the parser has decided that.
type Actor struct {
	Span
	Type string // "" if only a variable is given; "any" for every type
	Var  string // "" if only a type is given
}

// Any is the type that every actor has.
const Any = "any"

// Verb is what a behavior does.
type Verb string

// The behaviors.
const (
	Balance  Verb = "balance"
	Reserve  Verb = "reserve"
	Colocate Verb = "colocate"
	Separate Verb = "separate"
	Pin      Verb = "pin"
)

// Behavior is what a rule asks for: balance({Types}, Resource), reserve(Actors[0], Resource),
// colocate and separate(Actors[0], Actors[1]) [at Level], pin(Actors[0]).
type Behavior struct {
	Span
	Verb       Verb
	VerbAt     Span
	Actors     []*Actor // of balance the types, all without variables
	Resource   string   // cpu, mem or net; "" of the other three
	ResourceAt Span
	Level      Level
	LevelAt    Span
}

// Level is how near actors are, or how far.
type Level string

// The levels. Without one it is the server: a container that hosts actors.
const (
	Server Level = ""
	Node   Level = "node"
	Zone   Level = "zone"
)

func (s Span) Where() Span { return s }

func (*Or) cond()      {}
func (*And) cond()     {}
func (*Not) cond()     {}
func (*Paren) cond()   {}
func (*True) cond()    {}
func (*Compare) cond() {}
func (*In) cond()      {}

func (p Pos) String() string { return strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Column) }

func (a *Actor) String() string {
	switch {
	case a.Var == "":
		return a.Type
	case a.Type == "":
		return a.Var
	}
	return a.Type + "(" + a.Var + ")"
}
