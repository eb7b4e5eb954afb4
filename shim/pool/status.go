package pool

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/peregrine-dev/peregrine/shim/claim"
)

// Status is what a pool looks like from outside; no daemon is asked.
type Status struct {
	Root     string             `json:"root"`
	Daemon   bool               `json:"daemon"` // flashcubed answers
	Profiles map[string]Profile `json:"profiles"`
}

// Profile is the part of it that concerns one kind of parts.
type Profile struct {
	Ready    int    `json:"ready"`
	Building int    `json:"building"`
	Claimed  int    `json:"claimed"`           // parts that live and have, or get, a container
	Memory   int64  `json:"memory"`            // bytes that ready parts take, proportional set size
	Failure  string `json:"failure,omitempty"` // why the last build failed

	Counters
}

// Counters are since the host was booted: they are kept in /run.
type Counters struct {
	Hits      int64            `json:"hits"`                // containers that got a ready part
	Misses    int64            `json:"misses"`              // containers whose shim was started for them
	Fallbacks map[string]int64 `json:"fallbacks,omitempty"` // containers another runtime ran, by reason
}

// SocketName is that of the daemon's socket, below the root.
const SocketName = "flashcubed.sock"

// ReadStatus looks at the pool below a root. A root that isn't there has no profiles.
func ReadStatus(root string) (Status, error) {
	s := Status{Root: root, Daemon: answers(filepath.Join(root, SocketName)), Profiles: map[string]Profile{}}
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	for _, e := range entries {
		// What else is there, offers of networks for one, isn't a profile.
		if !e.IsDir() || !claim.Exists(filepath.Join(root, e.Name(), claim.Ready)) || !claim.Exists(filepath.Join(root, e.Name(), claim.Claimed)) {
			continue
		}
		if s.Profiles[e.Name()], err = readProfile(claim.Profile(root, e.Name())); err != nil {
			return s, err
		}
	}
	return s, nil
}

func answers(socket string) bool {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func readProfile(dir string) (p Profile, err error) {
	for _, name := range directories(filepath.Join(dir, claim.Ready)) {
		if all, err := processes(filepath.Join(dir, claim.Ready, name)); err == nil && all[0].alive() {
			p.Ready++
			p.Memory += memory(all[0])
		}
	}
	for _, name := range directories(filepath.Join(dir, claim.Claimed)) {
		if all, err := processes(filepath.Join(dir, claim.Claimed, name)); err == nil && all[0].alive() {
			p.Claimed++
		}
	}
	p.Building = len(directories(filepath.Join(dir, claim.Building)))
	if p.Counters, err = ReadCounters(dir); err != nil {
		return p, err
	}
	text, err := os.ReadFile(filepath.Join(dir, failureFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	p.Failure = strings.TrimSpace(string(text))
	return p, nil
}

func directories(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// ReadCounters reads what claims and shims count in a profile's directory.
func ReadCounters(dir string) (c Counters, err error) {
	if c.Hits, err = claim.Counted(dir, claim.Hit); err != nil {
		return c, err
	}
	if c.Misses, err = claim.Counted(dir, claim.Miss); err != nil {
		return c, err
	}
	entries, err := os.ReadDir(filepath.Join(dir, claim.Stats, claim.Fallback))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	c.Fallbacks = map[string]int64{}
	for _, e := range entries {
		if c.Fallbacks[e.Name()], err = claim.Counted(dir, claim.Fallback+"/"+e.Name()); err != nil {
			return c, err
		}
	}
	return c, nil
}
