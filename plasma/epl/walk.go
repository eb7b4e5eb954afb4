package epl

import "slices"

// Walk calls do with the condition and all within it, each before its parts.
func Walk(c Cond, do func(Cond)) {
	do(c)
	switch c := c.(type) {
	case *Or:
		Walk(c.X, do)
		Walk(c.Y, do)
	case *And:
		Walk(c.X, do)
		Walk(c.Y, do)
	case *Not:
		Walk(c.X, do)
	case *Paren:
		Walk(c.X, do)
	}
}

// Actors gives the actors that a part of a condition names itself.
func Actors(c Cond) []*Actor {
	switch c := c.(type) {
	case *In:
		return []*Actor{c.X, c.Of}
	case *Compare:
		return slices.DeleteFunc([]*Actor{c.Feature.Caller, c.Feature.Entity}, func(a *Actor) bool { return a == nil })
	}
	return nil
}

// IsName tells whether types, variables and rules can have this name.
func IsName(s string) bool { return IsMember(s) && !slices.Contains(reserved, s) }

// IsMember tells whether functions and properties can have this name.
func IsMember(s string) bool {
	if s == "" || len(s) > maxName || !letter(s[0]) {
		return false
	}
	for i := range len(s) {
		if !letter(s[i]) && !digit(s[i]) && s[i] != '_' {
			return false
		}
	}
	return true
}

// IsMetric tells whether metrics can have this name: what can stand in quotes.
func IsMetric(s string) bool {
	t := newLexer([]byte(`"` + s + `"`)).next()
	return t.kind == quoted && len(t.text) == len(s)+2 && len(s) > 0 && len(t.text) <= maxName
}
