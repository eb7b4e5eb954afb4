package sidecar

import (
	"slices"
)

// typesAnswer is what the application says of itself.
type typesAnswer struct {
	Types []actorType `json:"types"`
}

// actorType is a type of actors that the application has the behaviour of.
type actorType struct {
	Name      string   `json:"name"`
	Durable   string   `json:"durable"`   // each-turn, if it isn't said; periodic; none
	Functions []string `json:"functions"` // all there are; absent: any
}

const maxTypeCount = 256 // and functions of a type

func (t *typesAnswer) check() error {
	if n := len(t.Types); n == 0 || n > maxTypeCount {
		return invalid("the application has %d types, want 1 to %d", n, maxTypeCount)
	}
	seen := map[string]bool{}
	for _, one := range t.Types {
		if err := checkNames(append([]string{one.Name}, one.Functions...)...); err != nil {
			return err
		}
		if seen[one.Name] {
			return invalid("type %q is given twice", one.Name)
		}
		seen[one.Name] = true
		if !slices.Contains([]string{"", "each-turn", "periodic", "none"}, one.Durable) {
			return invalid("type %q: durable is %q, want each-turn, periodic or none", one.Name, one.Durable)
		}
		if len(one.Functions) > maxTypeCount {
			return invalid("type %q has %d functions, there may be %d", one.Name, len(one.Functions), maxTypeCount)
		}
	}
	return nil
}
