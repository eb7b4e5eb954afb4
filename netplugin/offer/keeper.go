package offer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/fsnotify/fsnotify"
)

// Maker connects namespaces to the network. A Keeper calls one method at a time, and gives
// Attach and Detach a minute at most.
type Maker interface {
	// Attach plugs a namespace in and addresses it, as for a container of that ID, which is
	// a valid one by the rules of CNI. ns and path are the namespace and good for the call
	// only: it is moved, and found later by its inode. After an error nothing is left.
	Attach(ctx context.Context, id string, ns *os.File, path string) error
	// Detach takes back what Attach did, or a part of that. What is gone already, or never
	// was, is no error. The container that had the namespace may have been detached under
	// its own ID, or may be still.
	Detach(ctx context.Context, id string) error
	// Known tells whether Attach succeeded for an ID, before a restart too, nothing has
	// taken that back, and it is as Attach would do it now. A ready offer that isn't known
	// is withdrawn, and detached.
	Known(id string) bool
}

// Keeper keeps offers ready in a network's directory, of which there must be only one
// Keeper. Its fields are set before Run or Drain and not changed.
type Keeper struct {
	Dir   string // of the network
	Want  int    // offers that are to be ready; 0 takes them all back
	Maker Maker

	pace    pace
	sound   map[string]bool      // ready, and found to be good since the last resync
	strays  map[string]time.Time // taken and nobody's, since when
	resync  time.Time            // the next
	missing time.Time            // since when too few are ready; zero while enough are
	took    time.Time            // when it was seen last that one was taken
	id      string               // of the next offer: kept while that can't be made, so that reasons repeat

	watcher  *fsnotify.Watcher // nil while there is none
	failures map[task]*failure

	mu      sync.Mutex
	lastErr error
}

// task is something that can fail, and is tried again later.
type task struct {
	do   string
	name string // of the offer; none if it is about no certain one
}

// Run keeps offers ready until ctx is done, then returns nil: what fails is tried again.
// Offers stay as they are: ready ones are taken without a Keeper, and adopted by the next.
// The Maker must know by now what it knew before a restart.
func (k *Keeper) Run(ctx context.Context) error {
	k.begin()
	ctx = k.logged(ctx)
	defer k.unwatch()
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		var events <-chan fsnotify.Event
		var lost <-chan error
		if k.watcher != nil {
			events, lost = k.watcher.Events, k.watcher.Errors
		}
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-events: // whatever it is, all is looked at
			if !ok {
				k.unwatch()
			}
		case <-lost: // events
		case <-next.C:
		}
		next.Reset(time.Until(k.act(ctx, time.Now())))
	}
}

// logged has what is logged say of which network it is.
func (k *Keeper) logged(ctx context.Context) context.Context {
	return log.WithLogger(ctx, log.G(ctx).WithField("network", filepath.Base(k.Dir)))
}

func (k *Keeper) begin() {
	if k.pace == (pace{}) {
		k.pace = defaultPace()
	}
	k.sound, k.strays, k.failures = map[string]bool{}, map[string]time.Time{}, map[task]*failure{}
	k.resync, k.missing, k.took = time.Time{}, time.Time{}, time.Time{}
	k.tell()
}

// watch watches for offers that are taken or done, and for anybody who takes the
// directories away. Watching twice is once.
func (k *Keeper) watch() error {
	if k.watcher == nil {
		w, err := fsnotify.NewWatcher()
		if err != nil {
			return fmt.Errorf("%w; raise fs.inotify.max_user_instances if there are too few", err)
		}
		k.watcher = w
	}
	for _, s := range []state{ready, taken, done} {
		if err := k.watcher.Add(filepath.Join(k.Dir, string(s))); err != nil {
			return fmt.Errorf("watch offers that are %s: %w; raise fs.inotify.max_user_watches if there are too few", s, err)
		}
	}
	return nil
}

func (k *Keeper) unwatch() {
	if k.watcher != nil {
		_ = k.watcher.Close()
		k.watcher = nil
	}
}

// try does something unless it failed a moment ago, and tells whether it did. A failure is
// logged once for each reason, until it succeeds.
func (k *Keeper) try(ctx context.Context, t task, f func(context.Context) error) bool {
	past := k.failures[t]
	if past != nil && time.Now().Before(past.retry) {
		return false
	}
	bounded, cancel := context.WithTimeout(ctx, k.pace.patience)
	defer cancel()
	err := f(bounded)
	if ctx.Err() != nil {
		return false // it says nothing
	}
	if err == nil {
		k.forget(t)
		return true
	}
	if past == nil {
		past = &failure{}
		k.failures[t] = past
	}
	if past.again(time.Now(), err, k.pace) {
		log.G(ctx).WithError(err).Errorf("can't %s; trying again", t.do)
	}
	k.tell()
	return false
}

// forget forgets the failures of something that was done, or needn't be any more.
func (k *Keeper) forget(t task) {
	if k.failures[t] != nil {
		delete(k.failures, t)
		k.tell()
	}
}

// tell makes known the last failure that still is one.
func (k *Keeper) tell() {
	var last error
	var at time.Time
	for t, f := range k.failures {
		if f.at.After(at) {
			last, at = fmt.Errorf("%s: %w", t.do, f.err), f.at
		}
	}
	k.mu.Lock()
	k.lastErr = last
	k.mu.Unlock()
}
