// Package parity runs the same OCI specifications under two runtimes and compares what a
// process in the container sees, what the hooks are told, how it all ends and, when it
// fails, at which step and why.
//
// Both runtimes run from one private containerd, one after the other, with the same
// container id. A program in the container, probe, reports everything it can find out;
// what can't be equal, such as process ids and inode numbers, is replaced by what is
// known about it.
package parity

import (
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Runtime is one that containerd can run.
type Runtime struct {
	Name    string // for containerd, such as io.containerd.runc.v2
	Options any    // of the runtime, or nil
	// Version, if not empty, replaces the ociVersion of specifications.
	Version string
}

// Case is a specification and what to do with the container.
type Case struct {
	Name string
	// Ask are the probe's arguments. Change may set other ones.
	Ask []string
	// Change alters the default specification.
	Change func(*specs.Spec, *Place)
	// JSON alters the specification once it is JSON, for what the Go types can't say.
	JSON func(map[string]any)
	// Files makes more files in the place's directory, before each run.
	Files func(*Place) error
	// Joins makes another process, whose namespaces the container may join.
	Joins bool
	// Stdin is given to the process, then its end; on a terminal the end does not come. If
	// it is empty there is no standard input.
	Stdin string
	// Terminal attaches one. It has to be in the specification too.
	Terminal bool
	// Raw names standard output when it is not the probe's.
	Raw string
	// Exec, if not nil, runs another process in the container; the facts are about it, as
	// those of the first one are about the specification. It starts from a copy of the
	// first's.
	Exec func(*specs.Process)
	// Newer, if not nil, is what must be among the facts. Then runc, which is too old to
	// know what the case asks for and ignores it, is left out.
	Newer Facts
	// Known are sections in which a difference is wanted, with the reason; "*" is all.
	Known map[string]string
}

// Place is where a case runs. It is made anew for each run and has the same paths then.
type Place struct {
	ID  string // of the container
	Dir string // on the host, readable by all; file, dir/file and the directory out are in it
	// Probe is the probe on the host; in the container it is /probe.
	Probe string
	// Namespaces are paths of namespaces of another process, by type, if the case joins.
	Namespaces map[specs.LinuxNamespaceType]string

	holder *holder
}

// Facts are what was found out, by section, in an order that does not depend on chance.
type Facts map[string][]string

// Difference is a line that one runtime's facts have and the other's have not.
type Difference struct {
	Section string
	Sign    string // "-" only the first runtime has it, "+" only the second
	Line    string
}

func (d Difference) String() string { return d.Sign + " [" + d.Section + "] " + d.Line }

// detail sections explain an outcome, in words that are each runtime's own.
var detail = []string{"message"}

// Compare lists what differs between two runs of a case.
func Compare(a, b Facts) []Difference {
	sections := map[string]bool{}
	for section := range a {
		sections[section] = true
	}
	for section := range b {
		sections[section] = true
	}
	var all []Difference
	for _, section := range slices.Sorted(maps.Keys(sections)) {
		if slices.Contains(detail, section) || slices.Equal(a[section], b[section]) {
			continue
		}
		all = append(all, lines(section, a[section], b[section])...)
	}
	return all
}

// Wanted tells whether a difference is one of those that a case knows.
func (c Case) Wanted(d Difference) bool {
	_, section := c.Known[d.Section]
	_, all := c.Known["*"]
	return section || all
}

// Check lists what is missing of a case's Newer. To refuse the container is right too, to
// ignore what was asked is not.
func Check(c Case, facts Facts) []Difference {
	if outcome := facts["outcome"]; len(outcome) > 0 && outcome[0] == "create failed" {
		return nil
	}
	var missing []Difference
	for _, section := range slices.Sorted(maps.Keys(c.Newer)) {
		for _, line := range c.Newer[section] {
			if !slices.Contains(facts[section], line) {
				missing = append(missing, Difference{section, "-", line})
			}
		}
	}
	return missing
}

// lines compares two lists: a longest common subsequence keeps what is equal out.
func lines(section string, a, b []string) []Difference {
	// length[i][j] is that of a[i:] and b[j:].
	length := make([][]int, len(a)+1)
	for i := range length {
		length[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				length[i][j] = length[i+1][j+1] + 1
			} else {
				length[i][j] = max(length[i+1][j], length[i][j+1])
			}
		}
	}
	var all []Difference
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			i, j = i+1, j+1
		case j == len(b) || (i < len(a) && length[i+1][j] >= length[i][j+1]):
			all = append(all, Difference{section, "-", a[i]})
			i++
		default:
			all = append(all, Difference{section, "+", b[j]})
			j++
		}
	}
	return all
}

// String shows the facts section by section.
func (f Facts) String() string {
	var text strings.Builder
	for _, section := range slices.Sorted(maps.Keys(f)) {
		text.WriteString("[" + section + "]\n")
		for _, line := range f[section] {
			text.WriteString(line + "\n")
		}
	}
	return text.String()
}
