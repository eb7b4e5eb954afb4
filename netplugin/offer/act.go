package offer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/log"
)

// The tasks.
const (
	taskPrepare  = "get ready for offers"
	taskWatch    = "watch the offers"
	taskLook     = "look at the offers"
	taskMake     = "make an offer"
	taskWithdraw = "withdraw an offer"
	taskApart    = "take an offer apart"
	taskReclaim  = "reclaim an abandoned offer"
)

// act does what is to be done, of what takes long one thing only, and returns when to
// look again.
func (k *Keeper) act(ctx context.Context, now time.Time) time.Time {
	if ctx.Err() != nil {
		return now // Run ends
	}
	// Whoever empties /run takes the directories, and the watches with them; so these are
	// renewed, and before looking: what changes from then on is looked at again.
	if !k.try(ctx, task{do: taskPrepare}, func(context.Context) error { return k.prepare() }) {
		return k.next(now.Add(k.pace.resync))
	}
	// Without it, what changes is seen whenever it is tried again.
	k.try(ctx, task{do: taskWatch}, func(context.Context) error { return k.watch() })
	var all map[state][]string
	if !k.try(ctx, task{do: taskLook}, func(context.Context) (err error) {
		all, err = k.listAll()
		return err
	}) {
		return k.next(now.Add(k.pace.resync))
	}
	k.tidy(all, now)
	if !now.Before(k.resync) {
		k.resync = now.Add(k.pace.resync)
		clear(k.sound)
		k.reclaim(ctx, all[taken], now)
	}
	good := k.sort(ctx, all[ready])

	worked := k.endOne(ctx, all)
	due := k.resync
	if good >= k.Want {
		k.missing = time.Time{}
		k.forget(task{do: taskMake})
	} else {
		if k.missing.IsZero() {
			k.missing = now
		}
		if start := k.pace.due(k.missing, k.took); now.Before(start) {
			due = start
		} else if k.try(ctx, task{do: taskMake}, k.makeOne) {
			worked = true
		}
	}
	if worked {
		return now
	}
	return k.next(due)
}

// next is the earliest of due and of when something that failed is tried again.
func (k *Keeper) next(due time.Time) time.Time {
	for _, f := range k.failures {
		if f.retry.Before(due) {
			due = f.retry
		}
	}
	return due
}

// listAll lists all offers.
func (k *Keeper) listAll() (map[state][]string, error) {
	all := map[state][]string{}
	for _, s := range states {
		names, err := k.list(s)
		if err != nil {
			return nil, err
		}
		all[s] = names
	}
	return all, nil
}

// sort withdraws what is no good offer, and those that are too many, and returns how many
// stay ready. A withdrawn one is in making: from there nobody takes it.
func (k *Keeper) sort(ctx context.Context, names []string) int {
	good := 0
	for _, name := range names {
		reason := ""
		if good == k.Want { // the last ones: takers begin with the first
			reason = "more are ready than wanted"
		} else if err := k.check(name); err != nil {
			reason = err.Error()
		}
		if reason == "" {
			good++
			continue
		}
		delete(k.sound, name)
		k.try(ctx, task{taskWithdraw, name}, func(context.Context) error {
			log.G(ctx).WithField("offer", name).WithField("reason", reason).Debug("withdrawing an offer")
			return k.move(name, ready, making)
		})
	}
	return good
}

// check is an error unless a ready offer is a good one.
func (k *Keeper) check(name string) error {
	if k.sound[name] {
		return nil
	}
	if !isID(name) {
		return fmt.Errorf("%q is no ID of an offer", name)
	}
	if err := checkNamespace(filepath.Join(k.path(ready, name), namespaceFile)); err != nil {
		return err
	}
	if !k.Maker.Known(name) {
		return fmt.Errorf("%s is not attached, or not as it ought to be now", name)
	}
	k.sound[name] = true
	return nil
}

// reclaim moves the offers to done that were abandoned in taken.
func (k *Keeper) reclaim(ctx context.Context, names []string, now time.Time) {
	for _, name := range names {
		k.try(ctx, task{taskReclaim, name}, func(context.Context) error {
			u, err := inspectUse(k.path(taken, name))
			if err != nil {
				return err
			}
			if u.owned || u.bundle {
				delete(k.strays, name)
			} else if since, ok := k.strays[name]; ok {
				u.without = now.Sub(since)
			} else {
				k.strays[name] = now
			}
			if !u.abandoned(k.pace.ownerless) {
				return nil
			}
			log.G(ctx).WithField("offer", name).Info("reclaiming an offer whose taker is gone")
			return k.move(name, taken, done)
		})
	}
}

// tidy forgets what was known of offers that are no more, or were taken.
func (k *Keeper) tidy(all map[state][]string, now time.Time) {
	for name := range k.sound {
		if !has(all[ready], name) {
			delete(k.sound, name)
			k.took = now
		}
	}
	for name := range k.strays {
		if !has(all[taken], name) {
			delete(k.strays, name)
		}
	}
	for t := range k.failures {
		exists := func(s state) bool { return has(all[s], t.name) }
		if t.name != "" && !slices.ContainsFunc(states, exists) {
			k.forget(t)
		}
	}
}

// has tells whether a name is in a sorted list.
func has(names []string, name string) bool {
	_, found := slices.BinarySearch(names, name)
	return found
}

// endOne takes one offer apart that is used, or not finished, and tells whether it did.
func (k *Keeper) endOne(ctx context.Context, all map[state][]string) bool {
	for _, s := range []state{done, making} {
		for _, name := range all[s] {
			if k.try(ctx, task{taskApart, name}, func(ctx context.Context) error { return k.takeApart(ctx, s, name) }) {
				log.G(ctx).WithField("offer", name).Debug("took an offer apart")
				return true
			}
		}
	}
	return false
}

// makeOne makes an offer. If it fails it leaves nothing, or what endOne takes apart.
func (k *Keeper) makeOne(ctx context.Context) error {
	if k.id == "" {
		k.id = newID()
	}
	name, began := k.id, time.Now()
	if err := os.Mkdir(k.path(making, name), 0o700); err != nil {
		return fmt.Errorf("make the directory of an offer: %w", err)
	}
	if err := k.complete(ctx, name); err != nil {
		if ctx.Err() != nil {
			k.id = "" // endOne's, or the next Keeper's
			return err
		}
		if apart := k.takeApart(ctx, making, name); apart != nil {
			k.id = "" // endOne's
			err = errors.Join(err, apart)
		}
		return err
	}
	k.id, k.sound[name] = "", true
	log.G(ctx).WithField("offer", name).WithField("took", time.Since(began)).Debug("offering a network namespace")
	return nil
}

// complete makes an offer of an empty directory in making.
func (k *Keeper) complete(ctx context.Context, name string) error {
	path := filepath.Join(k.path(making, name), namespaceFile)
	if err := makeNamespace(path); err != nil {
		return err
	}
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := k.Maker.Attach(ctx, name, ns, path); err != nil {
		return fmt.Errorf("attach a network namespace: %w", err)
	}
	if err := os.Rename(k.path(making, name), k.path(ready, name)); err != nil {
		return fmt.Errorf("offer a network namespace: %w", err)
	}
	return nil
}
