package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	coremount "github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
)

// TestKill kills the snapshotter again and again, at any point of any call and of its
// start. What it acknowledged is there after the next start; what it did not is done or
// undone, and can be tried again. PEREGRINE_SOAK=1 kills it ten
// times as often.
func TestKill(t *testing.T) {
	pooltest.NeedRoot(t)
	first, later := 20, 40
	if os.Getenv("PEREGRINE_SOAK") != "" {
		first, later = 200, 400
	}
	t.Run("first start", func(t *testing.T) { killFirstStart(t, seeded(t), first) })
	t.Run("calls", func(t *testing.T) { killCalls(t, seeded(t), later) })
}

// seeded is a source of random choices; the seed of a failure is printed, and taken
// from PEREGRINE_SEED.
func seeded(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("PEREGRINE_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed: PEREGRINE_SEED=%d", seed)
		}
	})
	return seed
}

// upTo is a random time of at most 2^bits microseconds, as often short as long: what
// happens first happens fast.
func upTo(random *rand.Rand, bits int) time.Duration {
	return time.Duration(random.IntN(1<<random.IntN(bits+1))) * time.Microsecond
}

// landmarks are the files that a first start makes, in their order. Kills follow them
// closely: the start spends its time elsewhere.
var landmarks = []string{"lock", "pool.img.new", "pool.img", "engine.new", "pool/metadata.db", "pool/snapshots"}

// killFirstStart kills the daemon while it makes and mounts its pool.
func killFirstStart(t *testing.T, seed uint64, kills int) {
	leaktest.Check(t)
	random := rand.New(rand.NewPCG(seed, 0))
	bao := newDaemon(t, smallPool)
	began := time.Now()
	bao.start(t)
	usual := time.Since(began)
	for killed := 0; killed < kills; {
		bao.reset(t)
		// Several kills in a row: one start has to cope with what two left.
		for range 1 + random.IntN(3) {
			bao.launchAndKill(t, pick(random, landmarks), usual, upTo(random, 14))
			killed++
		}
		bao.start(t)
		sn := bao.client(t)
		if _, err := sn.Prepare(t.Context(), "first", ""); err != nil {
			t.Error(err)
		}
		if err := errors.Join(sn.Close(), bao.Stop()); err != nil {
			t.Error(err)
		}
		checkMetadata(t, bao.Config.Root)
		checkDirs(t, bao.Config.Root)
	}
}

// killCalls kills the daemon under concurrent callers.
func killCalls(t *testing.T, seed uint64, kills int) {
	leaktest.Check(t)
	random := rand.New(rand.NewPCG(seed, 0))
	bao := newDaemon(t, smallPool)
	bao.start(t)
	shared := sharedLayers(t, bao, seed)
	callers := make([]*caller, 3)
	for i := range callers {
		callers[i] = &caller{name: fmt.Sprint("c", i), random: rand.New(rand.NewPCG(seed, uint64(i+1))), model: maps.Clone(shared)}
	}
	calls := 0
	for range kills {
		if random.IntN(4) == 0 { // at the start
			if err := bao.Kill(); err != nil {
				t.Fatal(err)
			}
			bao.launchAndKill(t, "lock", time.Second, upTo(random, 16))
		} else {
			calls += callAndKill(t, bao, callers, 1+random.IntN(40), upTo(random, 14))
		}
		checkMetadata(t, bao.Config.Root)
		bao.start(t)
		sn := bao.client(t)
		settle(t, sn, callers)
		verify(t, sn, random, callers, 6)
		if err := sn.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d calls begun", calls)

	sn := bao.client(t)
	verify(t, sn, random, callers, -1)
	if err := errors.Join(sn.Cleanup(t.Context()), sn.Close(), bao.Stop()); err != nil {
		t.Error(err)
	}
	checkMetadata(t, bao.Config.Root)
	checkDirs(t, bao.Config.Root)
}

// sharedLayers makes layers that stay, for all callers to build on.
func sharedLayers(t *testing.T, bao daemon, seed uint64) model {
	t.Helper()
	sn := bao.client(t)
	defer sn.Close()
	base := &caller{name: "base", random: rand.New(rand.NewPCG(seed, 100)), model: model{}}
	parent := ""
	for range 2 {
		key, name := base.newKey(), base.newKey()
		for _, s := range []step{
			{call: "Prepare", key: key, parent: parent},
			{call: "Write", key: key, edits: base.someEdits(base.model[parent].files)},
			{call: "Commit", key: key, name: name},
		} {
			if err := errors.Join(s.do(t.Context(), sn), s.apply(base.model)); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
		parent = name
	}
	return base.model
}

// callAndKill lets all callers call until the daemon is dead: it is killed some time
// after the begin of the n-th call. It returns how many calls began.
func callAndKill(t *testing.T, bao daemon, callers []*caller, n int, after time.Duration) int {
	t.Helper()
	sn := bao.client(t)
	defer sn.Close()
	var (
		begun  atomic.Int64
		killed atomic.Bool
		now    = make(chan struct{})
	)
	g, ctx := errgroup.WithContext(t.Context())
	g.Go(func() error {
		select {
		case <-now:
			time.Sleep(after)
		case <-ctx.Done():
		}
		killed.Store(true)
		return bao.Kill()
	})
	for _, c := range callers {
		g.Go(func() error {
			for {
				s := c.next()
				if begun.Add(1) == int64(n) {
					close(now)
				}
				// The context of the test, not the group's: a failed caller
				// must not make calls of others fail.
				switch err := s.do(t.Context(), sn); {
				case err == nil:
					if err := s.apply(c.model); err != nil {
						return err
					}
				case killed.Load() && errdefs.IsUnavailable(err):
					c.doubt = &s
					return nil
				default:
					return fmt.Errorf("%s: %w", s, err)
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return int(begun.Load())
}

// settle finds out what became of each call that the kill cut short, and makes it once
// more.
func settle(t *testing.T, sn snapshots.Snapshotter, callers []*caller) {
	t.Helper()
	there := walk(t, sn)
	for _, c := range callers {
		if c.doubt == nil {
			continue
		}
		s, keys := *c.doubt, []string{c.doubt.key, c.doubt.name}
		c.doubt = nil
		done := maps.Clone(c.model)
		// What Usage would have answered, nobody knows.
		if s.call != "Usage" {
			if err := s.apply(done); err != nil {
				t.Fatal(err)
			}
		}
		undoneErr, doneErr := c.model.same(there, keys), done.same(there, keys)
		if undoneErr != nil && doneErr != nil {
			t.Errorf("%s is neither undone (%v) nor done (%v)", s, undoneErr, doneErr)
			continue
		}
		err := s.do(t.Context(), sn)
		switch {
		case undoneErr == nil && err != nil:
			t.Errorf("%s was undone and fails when made again: %v", s, err)
		case err != nil && !errdefs.IsAlreadyExists(err) && !errdefs.IsNotFound(err):
			t.Errorf("%s was done and fails when made again: %v", s, err)
		case undoneErr == nil:
			if err := s.apply(c.model); err != nil {
				t.Error(err)
			}
		default:
			c.model = done
		}
	}
}

// verify compares all that is there with the model, and the files of some snapshots; a
// negative number means all.
func verify(t *testing.T, sn snapshots.Snapshotter, random *rand.Rand, callers []*caller, some int) {
	t.Helper()
	all := model{}
	for _, c := range callers {
		maps.Copy(all, c.model)
	}
	there := walk(t, sn)
	keys := slices.Sorted(maps.Keys(all))
	if err := all.same(there, append(slices.Collect(maps.Keys(there)), keys...)); err != nil {
		t.Error(err)
	}
	random.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	if some >= 0 {
		keys = keys[:min(some, len(keys))]
	}
	for _, key := range keys {
		if err := look(t.Context(), sn, key, all[key]); err != nil {
			t.Errorf("%s %q: %v", all[key].kind, key, err)
		}
	}
}

// look compares a snapshot's files with the model.
func look(ctx context.Context, sn snapshots.Snapshotter, key string, want snapshot) (err error) {
	var mounts []coremount.Mount
	if want.kind == snapshots.KindCommitted {
		view := "look-" + key
		mounts, err = sn.View(ctx, view, key)
		defer func() { err = errors.Join(err, sn.Remove(ctx, view)) }()
	} else {
		mounts, err = sn.Mounts(ctx, key)
	}
	if err != nil {
		return err
	}
	return coremount.WithTempMount(ctx, mounts, func(root string) error { return sameFiles(root, want.files) })
}

func walk(t *testing.T, sn snapshots.Snapshotter) map[string]snapshots.Info {
	t.Helper()
	there := map[string]snapshots.Info{}
	err := sn.Walk(t.Context(), func(_ context.Context, info snapshots.Info) error {
		there[info.Name] = info
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return there
}
