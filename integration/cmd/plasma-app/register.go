package main

import (
	"crypto/rand"
	"fmt"
	"os"

	"github.com/peregrine-dev/peregrine/plasma/host"
)

// register is a number: get gives it, set N sets it, add adds one. It answers "NUMBER SERVER".
func register(_ *host.Turn, n *int64, function string, body []byte) ([]byte, error) {
	switch function {
	case "get":
	case "set":
		if _, err := fmt.Sscan(string(body), n); err != nil {
			return nil, err
		}
	case "add":
		*n++
	default:
		return nil, fmt.Errorf("a register has no function %s", function)
	}
	return fmt.Append(nil, *n, " ", os.Getenv("PLASMA_SERVER")), nil
}

// life is how often an actor was asked, since it began with nothing and gave itself a name.
type life struct {
	Name  string `json:"name"`
	Count int64  `json:"count"`
}

// tally counts, and answers "NAME COUNT SERVER": if the same comes twice, two have the actor.
func tally(_ *host.Turn, l *life, _ string, _ []byte) ([]byte, error) {
	if l.Name == "" {
		l.Name = rand.Text()
	}
	l.Count++
	return fmt.Append(nil, l.Name, " ", l.Count, " ", os.Getenv("PLASMA_SERVER")), nil
}
