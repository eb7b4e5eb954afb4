package offer

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// state is a directory of offers.
type state string

const (
	making state = "making"
	ready  state = "ready"
	taken  state = "taken"
	done   state = "done"
)

var states = []state{making, ready, taken, done}

const (
	namespaceFile = "ns"
	ownerFile     = "owner"
	containerFile = "container.json"
)

const prefix = "offer-"

// newID is an ID that no other offer has had or will have: 130 random bits. It is a
// container ID by the rules of CNI, which are letters, digits, '_', '.' and '-'.
func newID() string { return prefix + rand.Text() }

// isID tells whether newID can have made an ID. Any other is nothing that a Maker was
// ever told of, and may be the ID of a container.
func isID(name string) bool {
	text, ok := strings.CutPrefix(name, prefix)
	return ok && text != "" && strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

func (k *Keeper) path(s state, name string) string { return filepath.Join(k.Dir, string(s), name) }

// prepare makes the directories.
func (k *Keeper) prepare() error {
	for _, s := range states {
		if err := os.MkdirAll(filepath.Join(k.Dir, string(s)), 0o700); err != nil {
			return fmt.Errorf("make the directories of offers: %w", err)
		}
	}
	return nil
}

// list is what is in a state, sorted; nothing if the directory isn't there.
func (k *Keeper) list(s state) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(k.Dir, string(s)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for offers: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// move takes an offer from one state to another, whose directories are there. One that is
// gone, because somebody else has moved it, is no error.
func (k *Keeper) move(name string, from, to state) error {
	err := os.Rename(k.path(from, name), k.path(to, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("move an offer from %s to %s: %w", from, to, err)
	}
	return nil
}
