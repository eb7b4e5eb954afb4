package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/log"
	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/claim"
)

// Events is told what a Keeper does; its methods return at once and are called by one
// goroutine.
type Events interface {
	// Built reports a part that got ready and how long it took.
	Built(took time.Duration)
	// BuildFailed reports a part that didn't.
	BuildFailed()
	// Kept reports the pool: ready parts, how many there ought to be, parts being built (0 or
	// 1) and the bytes that the ready ones take.
	Kept(ready, target, building int, memory int64)
}

// Keeper keeps ready parts in one profile's directory, of which there must be only one
// keeper. Its fields are set before Run and not changed.
type Keeper struct {
	Dir    string // the profile's, see package claim
	Shim   string // path of flashcube-shim
	Init   string // path of flashcube-init; if empty, every part copies it for itself
	Limits Limits
	Pace   Pace
	Events Events

	// Tick is how often what changes without an event is looked at: age, dead parts, memory,
	// a new version of the programs. 0 is ten seconds.
	Tick time.Duration

	demand   Demand
	ready    map[string]*part
	building *part
	children map[int]string // of this process, by id: the name of the part

	missing     time.Time // since when the pool is not full; zero while it is
	failures    int       // builds in a row
	retry       time.Time // no build before, after failures
	lastFailure time.Time
	buildTime   time.Duration
	swept       sweeper
	serial      int
	program     executable // Shim's, zero while there is none
	init        program
}

// settled is how long a part has to be ready, or until a claim, for its build to have
// been a good one.
const settled = 5 * time.Second

// part is a part that isn't claimed.
type part struct {
	name   string
	shim   process
	since  time.Time // begun, and when it got ready
	memory int64     // bytes, 0 before it was measured
	log    *os.File  // while it is built by this process
}

// Run keeps the pool until ctx is done, then returns nil. Parts stay as they are: ready
// ones are claimed without a keeper, one in the making gets ready.
func (k *Keeper) Run(ctx context.Context) error {
	if err := claim.Prepare(k.Dir); err != nil {
		return err
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch the pool: %w; raise fs.inotify.max_user_instances", err)
	}
	defer w.Close()
	if err := k.watch(w); err != nil {
		return err
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	defer signal.Stop(ended)

	if k.Tick == 0 {
		k.Tick = 10 * time.Second
	}
	k.ready, k.children = map[string]*part{}, map[int]string{}
	k.init.path = k.Init
	k.swept.shim = k.Shim
	defer k.init.Close()
	k.clearFailure() // it was another keeper's
	k.adopt(ctx, time.Now())
	tick := time.NewTicker(k.Tick)
	defer tick.Stop()
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.Events:
			if !ok {
				return errors.New("watch the pool: the watch ended")
			}
			if !k.seen(ctx, e, time.Now()) {
				continue
			}
		case err := <-w.Errors:
			log.G(ctx).WithError(err).Warn("lost sight of the pool for a moment")
			k.scan(ctx, time.Now())
		case <-ended:
			k.reapAll(ctx, time.Now())
		case <-tick.C:
			k.maintain(ctx, w, time.Now())
		case <-next.C:
		}
		next.Reset(time.Until(k.act(ctx, time.Now())))
	}
}

// watch watches for claims and for parts that get ready. Watching twice is once.
func (k *Keeper) watch(w *fsnotify.Watcher) error {
	for _, name := range []string{claim.Ready, claim.Claimed} {
		if err := w.Add(filepath.Join(k.Dir, name)); err != nil {
			return fmt.Errorf("watch %s: %w", filepath.Join(k.Dir, name), err)
		}
	}
	return nil
}

// seen takes note of an event and tells whether there may be something to do.
func (k *Keeper) seen(ctx context.Context, e fsnotify.Event, now time.Time) bool {
	if !e.Has(fsnotify.Create) { // what is created there was renamed, or is a cold part
		return false
	}
	dir, name := filepath.Split(e.Name)
	if filepath.Base(dir) == claim.Claimed {
		k.demand.Observe(now, k.Pace)
		if k.ready[name] != nil {
			k.succeeded()
		}
		delete(k.ready, name)
		return true
	}
	if k.building != nil && k.building.name == name {
		k.gotReady(ctx, now)
		return true
	}
	if k.ready[name] == nil {
		k.scan(ctx, now) // by whom ever
	}
	return true
}

// gotReady moves the part in the making to the ready ones.
func (k *Keeper) gotReady(ctx context.Context, now time.Time) {
	p := k.building
	k.building = nil
	p.log.Close()
	took := now.Sub(p.since)
	k.buildTime = took
	k.missing = time.Time{}
	p.since = now
	k.ready[p.name] = p
	k.mendPriority(ctx, p)
	k.Events.Built(took)
	log.G(ctx).WithField("part", p.name).WithField("took", took).Debug("part is ready")
}

// act builds or gives up a part if it is time to, and returns when to look again.
func (k *Keeper) act(ctx context.Context, now time.Time) time.Time {
	later := now.Add(time.Hour)
	target := k.target(now)
	defer func() {
		building := 0
		if k.building != nil {
			building = 1
		}
		k.Events.Kept(len(k.ready), target, building, k.memory())
	}()
	if k.building != nil {
		deadline := k.building.since.Add(k.Pace.Timeout)
		if now.Before(deadline) {
			return deadline
		}
		// It may have got ready, and be claimed, at this moment: whoever renames it has it.
		name := k.building.name
		if os.Rename(k.path(claim.Building, name), k.path(claim.Retired, name)) == nil {
			k.failed(ctx, now, fmt.Sprintf("not ready after %s", k.Pace.Timeout))
		} else {
			k.gotReady(ctx, now)
			k.scan(ctx, now)
		}
	}
	if len(k.ready) >= target {
		k.missing = time.Time{}
		return later
	}
	if k.missing.IsZero() {
		k.missing = now
	}
	due := k.Pace.Due(k.missing, k.demand.Last())
	if due.Before(k.retry) {
		due = k.retry
	}
	if now.Before(due) {
		return due
	}
	k.build(ctx, now)
	return now.Add(k.Pace.Timeout)
}

func (k *Keeper) target(now time.Time) int {
	return k.Limits.Target(k.demand.Want(now, k.buildTime+k.Pace.Quiet), k.partMemory())
}

// build starts one part.
func (k *Keeper) build(ctx context.Context, now time.Time) {
	k.serial++
	name := strconv.FormatInt(now.UnixNano(), 36) + "-" + strconv.Itoa(k.serial)
	dir := k.path(claim.Building, name)
	var (
		init *os.File
		p    process
		errs *os.File
		err  error
	)
	if k.Init != "" {
		init, err = k.init.open()
	}
	if err == nil {
		p, errs, err = launch(k.Shim, dir, init)
	}
	if err != nil {
		k.building = &part{name: name}
		k.failed(ctx, now, err.Error())
		return
	}
	k.children[p.pid] = name
	k.building = &part{name: name, shim: p, since: now, log: errs}
	if err := note(dir, p); err != nil {
		log.G(ctx).WithError(err).Warn("a part that is being built wouldn't be known after a crash")
	}
}

// failed gives up the part in the making.
func (k *Keeper) failed(ctx context.Context, now time.Time, reason string) {
	p := k.building
	k.building = nil
	dir := k.path(claim.Building, p.name)
	if words := lastWords(p.log); words != "" {
		reason += ": " + words
	}
	p.log.Close()
	if p.shim.start != 0 {
		if err := p.shim.kill(unix.SIGKILL); err != nil {
			log.G(ctx).WithError(err).Warn("a part that isn't wanted lives on")
		}
	}
	k.remove(ctx, dir)
	k.backOff(ctx, now, reason)
}

// backOff waits before the next build, longer each time.
func (k *Keeper) backOff(ctx context.Context, now time.Time, reason string) {
	k.failures++
	k.lastFailure = now
	wait := k.Pace.Backoff(k.failures)
	k.retry = now.Add(wait)
	k.noteFailure(ctx, reason)
	k.Events.BuildFailed()
	log.G(ctx).WithField("failures", k.failures).WithField("retry", wait).Errorf("can't build a part: %s", reason)
}

// reapAll waits for children that have ended.
func (k *Keeper) reapAll(ctx context.Context, now time.Time) {
	for pid, name := range k.children {
		how, ended := reap(pid)
		if !ended {
			continue
		}
		delete(k.children, pid)
		if k.building != nil && k.building.name == name {
			if !claim.Exists(k.path(claim.Ready, name)) && !claim.Exists(k.path(claim.Claimed, name)) {
				k.failed(ctx, now, how)
				continue
			}
			k.gotReady(ctx, now) // and has ended since
		}
		if p := k.ready[name]; p != nil {
			k.retire(ctx, name, how)
			// It was not asked to. If that is how parts are now, there would be no end of building.
			if now.Sub(p.since) < settled {
				k.backOff(ctx, now, "a part that was ready ended: "+how)
			}
		}
	}
}

// succeeded ends a series of failures.
func (k *Keeper) succeeded() {
	if k.failures > 0 {
		k.failures, k.retry = 0, time.Time{}
		k.clearFailure()
	}
}
