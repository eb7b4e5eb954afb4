package pool

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/log"
	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/claim"
)

// linger is how long a part that isn't wanted any more waits for a claim.
const linger = time.Minute

// maintain does what no event asks for.
func (k *Keeper) maintain(ctx context.Context, w *fsnotify.Watcher, now time.Time) {
	// Whoever empties /run takes the directories, and the watches with them.
	err := claim.Prepare(k.Dir)
	if err == nil && w != nil {
		err = k.watch(w)
	}
	if err != nil {
		log.G(ctx).WithError(err).Error("the pool's directory is not usable")
	}
	k.reapAll(ctx, now)
	k.scan(ctx, now)
	k.program, err = executableAt(k.Shim)
	if err != nil {
		log.G(ctx).WithError(err).Warn("there is no shim to build parts with")
	}
	k.measure(now)
	k.bury(ctx) // before others are asked to end: they have until the next time
	k.prune(ctx, now)
	k.swept.sweep(ctx, filepath.Join(k.Dir, claim.Claimed), now)
}

// measure finds out what new parts take; of others it is known.
func (k *Keeper) measure(now time.Time) {
	for _, p := range k.ready {
		if p.memory == 0 {
			p.memory = memory(p.shim)
		}
		if now.Sub(p.since) >= settled && p.since.After(k.lastFailure) {
			k.succeeded()
		}
	}
}

// memory is what all ready parts take, those that aren't measured as much as the others.
func (k *Keeper) memory() int64 { return k.partMemory() * int64(len(k.ready)) }

// partMemory is what a part takes on average, 0 while that is unknown.
func (k *Keeper) partMemory() int64 {
	var sum, n int64
	for _, p := range k.ready {
		if p.memory > 0 {
			sum += p.memory
			n++
		}
	}
	if n == 0 {
		return 0
	}
	return sum / n
}

// prune retires parts: all dead ones and those of another version, and the oldest one
// that is too old or too many, so that the pool never empties at once.
func (k *Keeper) prune(ctx context.Context, now time.Time) {
	var oldest *part
	for name, p := range k.ready {
		if !p.shim.alive() {
			k.retire(ctx, name, "it is dead")
			continue
		}
		if k.outdated(p, now) {
			k.retire(ctx, name, "another version is installed")
			continue
		}
		if oldest == nil || p.since.Before(oldest.since) {
			oldest = p
		}
	}
	if oldest == nil {
		return
	}
	switch age := now.Sub(oldest.since); {
	case age > k.Limits.MaxAge:
		k.retire(ctx, oldest.name, "it is old")
	case age > linger && len(k.ready) > k.target(now):
		k.retire(ctx, oldest.name, "it isn't needed")
	}
}

// outdated tells whether a part runs other programs than are installed now. If none are,
// it is as new as can be.
func (k *Keeper) outdated(p *part, now time.Time) bool {
	runs, err := executableAt("/proc/" + strconv.Itoa(p.shim.pid) + "/exe")
	if err == nil && k.program != (executable{}) && runs != k.program {
		return true
	}
	return k.Init != "" && p.since.Before(installed(k.Init, now))
}

// retire takes a part out of the pool, unless somebody claims it first, and asks it to end.
func (k *Keeper) retire(ctx context.Context, name, reason string) {
	delete(k.ready, name)
	dir := k.path(claim.Retired, name)
	if err := os.Rename(k.path(claim.Ready, name), dir); err != nil {
		return // claimed
	}
	log.G(ctx).WithField("part", name).WithField("reason", reason).Debug("retiring a part")
	all, err := processes(dir)
	if err == nil && all[0].alive() {
		if err := all[0].kill(unix.SIGTERM); err != nil {
			log.G(ctx).WithError(err).Warn("can't end a part")
		}
		return
	}
	k.remove(ctx, dir)
}

// bury removes retired parts that have ended and kills those that don't.
func (k *Keeper) bury(ctx context.Context) {
	for _, name := range k.list(ctx, claim.Retired) {
		dir := k.path(claim.Retired, name)
		all, err := processes(dir)
		if err == nil && all[0].alive() {
			if err := all[0].kill(unix.SIGKILL); err != nil {
				log.G(ctx).WithError(err).Warn("can't kill a part")
			}
			continue
		}
		k.remove(ctx, dir)
	}
}

const failureFile = "failure"

func (k *Keeper) noteFailure(ctx context.Context, reason string) {
	path := filepath.Join(k.Dir, failureFile)
	err := os.WriteFile(path+".tmp", []byte(reason+"\n"), 0o600)
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		log.G(ctx).WithError(err).Warn("the failure won't be in the status")
	}
}

func (k *Keeper) clearFailure() { _ = os.Remove(filepath.Join(k.Dir, failureFile)) }
