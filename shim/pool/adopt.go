package pool

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/pool/priority"
)

// adopt takes over what an earlier keeper left.
func (k *Keeper) adopt(ctx context.Context, now time.Time) {
	k.scan(ctx, now)
	for _, name := range k.list(ctx, claim.Building) {
		dir := k.path(claim.Building, name)
		all, err := processes(dir)
		if err == nil && all[0].alive() && k.building == nil {
			// Its own time, in place of the one it began at, which is unknown.
			k.building = &part{name: name, shim: all[0], since: now}
			continue
		}
		if err == nil {
			err = all[0].kill(unix.SIGKILL)
		}
		log.G(ctx).WithError(err).WithField("part", name).Info("removing what a build left")
		k.remove(ctx, dir)
	}
	k.maintain(ctx, nil, now)
	log.G(ctx).WithField("ready", len(k.ready)).WithField("dir", k.Dir).Info("keeping the pool")
}

// scan compares what is known to be ready with what is.
func (k *Keeper) scan(ctx context.Context, now time.Time) {
	names := map[string]bool{}
	for _, name := range k.list(ctx, claim.Ready) {
		names[name] = true
		if k.building != nil && k.building.name == name {
			k.gotReady(ctx, now)
		}
		if k.ready[name] != nil {
			continue
		}
		dir := k.path(claim.Ready, name)
		all, err := processes(dir)
		if errors.Is(err, fs.ErrNotExist) && !claim.Exists(dir) {
			continue // claimed meanwhile
		}
		if err != nil || !all[0].alive() {
			k.retire(ctx, name, "it is dead")
			continue
		}
		p := &part{name: name, shim: all[0], since: modified(filepath.Join(dir, claim.PidFile), now)}
		k.ready[name] = p
		k.mendPriority(ctx, p)
	}
	for name := range k.ready {
		if !names[name] {
			delete(k.ready, name)
		}
	}
}

// modified is when a file was last written, now if that is unknown or to come.
func modified(path string, now time.Time) time.Time {
	fi, err := os.Stat(path)
	if err != nil || fi.ModTime().After(now) {
		return now
	}
	return fi.ModTime()
}

// mendPriority does what the shim ought to have done: else a container would run at low
// priority for ever.
func (k *Keeper) mendPriority(ctx context.Context, p *part) {
	for _, one := range append(p.shim.children(), p.shim) {
		nice, err := priority.Nice(one.pid)
		if err != nil || nice == 0 || !one.alive() {
			continue
		}
		log.G(ctx).WithField("part", p.name).WithField("pid", one.pid).Warn("a part got ready at low priority")
		if err := priority.Normal(one.pid); err != nil && !errors.Is(err, unix.ESRCH) {
			log.G(ctx).WithError(err).Warn("a container may run at low priority")
		}
	}
}

// list returns the names of parts in a directory of the profile.
func (k *Keeper) list(ctx context.Context, where string) []string {
	entries, err := os.ReadDir(filepath.Join(k.Dir, where))
	if err != nil {
		log.G(ctx).WithError(err).Warn("can't look into the pool")
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

func (k *Keeper) path(where, name string) string { return filepath.Join(k.Dir, where, name) }

func (k *Keeper) remove(ctx context.Context, dir string) {
	if err := os.RemoveAll(dir); err != nil {
		log.G(ctx).WithError(err).Warn("can't remove what a part left")
	}
}
