// Package ir turns a policy's tree into what the planner runs: rules as alternatives that are
// conjunctions, over variables that stand for actors.
package ir

import (
	"time"

	"github.com/peregrine-dev/peregrine/plasma/epl"
)

// Program is a compiled policy. It is read only and may be shared.
type Program struct {
	Shadow bool
	Limits Limits
	// Rules are in the order of their priority, the highest first, then of the text.
	Rules []*Rule
}

// Limits bounds plans. Zero values stand for no limit.
type Limits struct {
	MinServers, MaxServers int
	// Moves within Per: a share of all actors if MovesShare > 0, else a number.
	MovesShare float64
	Moves      int
	Per        time.Duration
	// Up and Down are cooldowns, which hold if CooldownSet.
	Up, Down    time.Duration
	CooldownSet bool
	Period      time.Duration
}

// Rule is a rule of which any alternative may hold.
type Rule struct {
	Name     string // its name, or "rule N", N counting from 1
	Index    int    // its place in the text, from 0
	Priority int
	When     []Alternative
	Do       []*epl.Behavior
	Source   *epl.Rule
}

// Alternative is a conjunction.
type Alternative struct {
	// Vars are those that the terms name, Conditioned of them, and then those that only the
	// rule's behaviors name. The first is the one whose server the condition's "server" is.
	Vars        []Var
	Conditioned int
	Terms       []Term
	// Do are the variables of each of the rule's behaviors; of balance there are none.
	Do [][]int
}

// Var stands for an actor. Anonymous ones (of a type alone) have a Name that begins with "_":
// in a condition there must be one, in a behavior it stands for each.
type Var struct {
	Name string
	Type string // or epl.Any
}

// Term is a comparison or a reference, or its negation.
type Term struct {
	// Compare or In is set. Variables are indices into the alternative's Vars, -1 for none.
	Compare *epl.Compare
	In      *epl.In
	Not     bool
	// Entity is whose feature is compared, or X of In; -1 is the server.
	Entity int
	// Other is the caller of a call (-1: clients), or Of of In.
	Other int
	// ID names the term in the planner's memory.
	ID string
}
