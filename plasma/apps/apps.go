// Package apps has worlds: applications with their loads, of the kinds that the literature on
// elasticity uses, each in a folder of its own with its policy in both languages, the manifest
// of its actors, and a README that names its sources. What they draw depends on a seed alone.
package apps

import (
	"embed"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/peregrine-dev/peregrine/plasma/apps/btree"
	"github.com/peregrine-dev/peregrine/plasma/apps/cassandra"
	"github.com/peregrine-dev/peregrine/plasma/apps/chat"
	"github.com/peregrine-dev/peregrine/plasma/apps/estore"
	"github.com/peregrine-dev/peregrine/plasma/apps/halo"
	"github.com/peregrine-dev/peregrine/plasma/apps/media"
	"github.com/peregrine-dev/peregrine/plasma/apps/metadata"
	"github.com/peregrine-dev/peregrine/plasma/apps/pagerank"
	"github.com/peregrine-dev/peregrine/plasma/apps/tpcc"
	"github.com/peregrine-dev/peregrine/plasma/apps/twitter"
	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/world"
)

type app struct {
	name, summary string
	world         func(seed uint64, stationary bool) *world.World
	files         embed.FS
}

var all = []app{
	{"btree", btree.Summary, btree.World, btree.Files},
	{"cassandra", cassandra.Summary, cassandra.World, cassandra.Files},
	{"chat", chat.Summary, chat.World, chat.Files},
	{"estore", estore.Summary, estore.World, estore.Files},
	{"halo", halo.Summary, halo.World, halo.Files},
	{"media", media.Summary, media.World, media.Files},
	{"metadata", metadata.Summary, metadata.World, metadata.Files},
	{"pagerank", pagerank.Summary, pagerank.World, pagerank.Files},
	{"tpcc", tpcc.Summary, tpcc.World, tpcc.Files},
	{"twitter", twitter.Summary, twitter.World, twitter.Files},
}

// Names gives the names of all worlds, sorted.
func Names() []string {
	out := make([]string, len(all))
	for i, a := range all {
		out[i] = a.name
	}
	return out
}

// Summary gives one line about a world.
func Summary(name string) (string, error) {
	a, err := find(name)
	return a.summary, err
}

// World gives a world as drawn with a seed below 2^63: valid, and the same each time.
func World(name string, seed uint64) (*world.World, error) { return draw(name, seed, false) }

// Stationary gives a world whose load is the mean of World's all the time: nothing becomes hot or
// cold, and nothing is born or dies.
func Stationary(name string, seed uint64) (*world.World, error) { return draw(name, seed, true) }

func draw(name string, seed uint64, stationary bool) (*world.World, error) {
	a, err := find(name)
	if err != nil {
		return nil, err
	}
	if seed > math.MaxInt64 {
		return nil, fmt.Errorf("the seed is %d: give one below 2^63", seed)
	}
	return a.world(seed, stationary), nil
}

// Policy gives a world's policy.
func Policy(name string, mode epl.Mode) ([]byte, error) {
	if mode == epl.Paper {
		return file(name, "policy.paper.epl")
	}
	return file(name, "policy.epl")
}

// Manifest gives what a world says of its types of actors, for package manifest.
func Manifest(name string) ([]byte, error) { return file(name, "manifest.toml") }

// Readme gives a world's description, in Markdown.
func Readme(name string) ([]byte, error) { return file(name, "README.md") }

func file(name, path string) ([]byte, error) {
	a, err := find(name)
	if err != nil {
		return nil, err
	}
	return a.files.ReadFile(path)
}

func find(name string) (app, error) {
	i := slices.IndexFunc(all, func(a app) bool { return a.name == name })
	if i < 0 {
		return app{}, fmt.Errorf("there is no world %q: give one of %s", name, strings.Join(Names(), ", "))
	}
	return all[i], nil
}
