package pool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/claim"
)

const (
	// unnoticed is how long after a claim its claimer must have died, if the part has no
	// claim.json.
	unnoticed = 10 * time.Second
	// abandoned is how long a part is dead, or doesn't say who it is, before what it left is
	// removed. containerd's delete, which knows more, comes first.
	abandoned = time.Minute
)

// sweeper removes what claimed parts leave that died without a clean-up.
type sweeper struct {
	shim  string               // path of flashcube-shim
	since map[string]time.Time // when a part that ought not to be was seen first
}

// sweep looks at every claimed part.
func (s *sweeper) sweep(ctx context.Context, claimed string, now time.Time) {
	entries, err := os.ReadDir(claimed)
	if err != nil {
		return // maintain says so
	}
	suspects := map[string]time.Time{}
	for _, e := range entries {
		dir := filepath.Join(claimed, e.Name())
		since, known := s.since[e.Name()]
		if !known {
			since = now
		}
		what := inspect(dir)
		if what == fine {
			continue
		}
		suspects[e.Name()] = since
		age := now.Sub(since)
		switch {
		case what == unclaimed && age >= unnoticed:
			// Its claimer died: in its place. The part finds no claim.json and ends in time.
			_ = claim.Knock(dir)
			delete(suspects, e.Name())
		case what == dead && age >= abandoned:
			if err := s.clear(ctx, dir); err != nil {
				log.G(ctx).WithError(err).Warn("can't remove what a dead part left")
				continue
			}
			log.G(ctx).WithField("part", e.Name()).Warn("removed what a dead part left")
			delete(suspects, e.Name())
		}
	}
	s.since = suspects
}

type condition int

const (
	fine      condition = iota // it lives and is claimed, or containerd will see to it
	unclaimed                  // it lives and nobody told it for whom
	dead                       // nobody will ask for it again
)

// inspect looks at a claimed part.
func inspect(dir string) condition {
	all, err := processes(dir)
	if err == nil && all[0].alive() {
		if !claim.Exists(filepath.Join(dir, claim.ClaimFile)) {
			return unclaimed
		}
		return fine
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fine // not ours to judge
	}
	// While the bundle is there containerd will execute delete, which knows what a container
	// is and where else it left something.
	r, err := readClaim(dir)
	if err == nil && r.Bundle != "" && claim.Exists(r.Bundle) {
		return fine
	}
	return dead
}

func readClaim(dir string) (claim.Request, error) {
	var r claim.Request
	text, err := os.ReadFile(filepath.Join(dir, claim.ClaimFile))
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	return r, err
}

// clear removes a dead part. Nobody can manage a container any more whose shim and bundle are
// gone, so what is left of its processes ends here.
func (s *sweeper) clear(ctx context.Context, dir string) error {
	all, err := processes(dir)
	if err == nil {
		for _, p := range all {
			if p.alive() {
				if err := p.kill(unix.SIGKILL); err != nil {
					return err
				}
			}
		}
	} else if claim.Knock(dir) == nil {
		return nil // a cold shim that lives and hasn't said who it is
	}
	if claim.Exists(filepath.Join(dir, claim.StateFile)) {
		// It died with a container in the making.
		if err := s.cleanUp(ctx, dir); err != nil {
			log.G(ctx).WithError(err).Warn("a container that wasn't created may have left something")
		}
	}
	return os.RemoveAll(dir)
}

// cleanUp ends the container whose state is in a directory.
func (s *sweeper) cleanUp(ctx context.Context, dir string) error {
	const longest = 5 * time.Second // as containerd's
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	out, err := exec.CommandContext(ctx, s.shim, "-cleanup", "-bundle", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
