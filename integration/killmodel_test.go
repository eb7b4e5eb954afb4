package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	coremount "github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// model is what a snapshotter must have, by key: all that was acknowledged.
type model map[string]snapshot

type snapshot struct {
	kind   snapshots.Kind
	parent string
	labels map[string]string
	files  map[string][]byte // all that is seen in it, by path
	usage  *snapshots.Usage  // of a layer, once somebody asked
}

// step is one call and what it means. Steps are values: the same one can be tried again.
type step struct {
	call      string
	key, name string // name is what Commit makes of key
	parent    string
	labels    map[string]string
	edits     []edit

	usage *snapshots.Usage // Usage fills it in
}

// edit writes data into a file at an offset; without data it deletes the file.
type edit struct {
	path   string
	offset int
	data   []byte
}

func (s step) String() string {
	return fmt.Sprintf("%s(key %q, name %q, parent %q, labels %v, %d edits)", s.call, s.key, s.name, s.parent, s.labels, len(s.edits))
}

// do makes the call.
func (s step) do(ctx context.Context, sn snapshots.Snapshotter) error {
	switch s.call {
	case "Prepare":
		_, err := sn.Prepare(ctx, s.key, s.parent, snapshots.WithLabels(s.labels))
		return err
	case "View":
		_, err := sn.View(ctx, s.key, s.parent, snapshots.WithLabels(s.labels))
		return err
	case "Commit":
		return sn.Commit(ctx, s.name, s.key, snapshots.WithLabels(s.labels))
	case "Remove":
		return sn.Remove(ctx, s.key)
	case "Update":
		_, err := sn.Update(ctx, snapshots.Info{Name: s.key, Labels: s.labels}, "labels")
		return err
	case "Usage":
		usage, err := sn.Usage(ctx, s.key)
		*s.usage = usage
		return err
	case "Cleanup":
		return sn.(snapshots.Cleaner).Cleanup(ctx)
	case "Write":
		mounts, err := sn.Mounts(ctx, s.key)
		if err != nil {
			return err
		}
		// The daemon has no part in it from here on.
		return coremount.WithTempMount(context.WithoutCancel(ctx), mounts, func(root string) error {
			for _, e := range s.edits {
				if err := e.do(root); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return fmt.Errorf("no call %q: %w", s.call, errdefs.ErrNotImplemented)
}

func (e edit) do(root string) error {
	path := filepath.Join(root, e.path)
	if e.data == nil {
		return os.Remove(path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(e.data, int64(e.offset))
	return errors.Join(err, f.Close())
}

// apply notes that a step was acknowledged. An answer that contradicts an earlier one
// is an error.
func (s step) apply(m model) error {
	switch s.call {
	case "Prepare", "View":
		kind := snapshots.KindActive
		if s.call == "View" {
			kind = snapshots.KindView
		}
		m[s.key] = snapshot{kind: kind, parent: s.parent, labels: s.labels, files: maps.Clone(m[s.parent].files)}
	case "Commit":
		was := m[s.key]
		delete(m, s.key)
		m[s.name] = snapshot{kind: snapshots.KindCommitted, parent: was.parent, labels: s.labels, files: was.files}
	case "Remove":
		delete(m, s.key)
	case "Update":
		now := m[s.key]
		now.labels = s.labels
		m[s.key] = now
	case "Usage":
		now := m[s.key]
		if now.kind != snapshots.KindCommitted {
			break
		}
		if now.usage != nil && *now.usage != *s.usage {
			return fmt.Errorf("the usage of layer %s was %+v and is %+v", s.key, *now.usage, *s.usage)
		}
		now.usage = s.usage
		m[s.key] = now
	case "Write":
		now := m[s.key]
		if now.files = maps.Clone(now.files); now.files == nil {
			now.files = map[string][]byte{}
		}
		for _, e := range s.edits {
			if e.data == nil {
				delete(now.files, e.path)
				continue
			}
			old := now.files[e.path]
			size := len(old)
			if len(e.data) > 0 {
				size = max(size, e.offset+len(e.data))
			}
			content := make([]byte, size)
			copy(content, old)
			copy(content[e.offset:], e.data)
			now.files[e.path] = content
		}
		m[s.key] = now
	}
	return nil
}

// same says how the snapshots that are there differ from the model, for the given keys.
func (m model) same(there map[string]snapshots.Info, keys []string) error {
	for _, key := range keys {
		want, wanted := m[key]
		got, ok := there[key]
		switch {
		case wanted && !ok:
			return fmt.Errorf("%s %q is gone", want.kind, key)
		case !wanted && ok:
			return fmt.Errorf("%s %q is there and should not be", got.Kind, key)
		case wanted && (got.Kind != want.kind || got.Parent != want.parent || !maps.Equal(got.Labels, want.labels)):
			return fmt.Errorf("%q is a %s on %q with labels %v, want a %s on %q with %v", key,
				got.Kind, got.Parent, got.Labels, want.kind, want.parent, want.labels)
		}
	}
	return nil
}

// sameFiles says how a directory differs from the files that should be seen in it.
func sameFiles(dir string, want map[string][]byte) error {
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		content, ok := want[name]
		if !ok {
			return fmt.Errorf("%s is there and should not be", name)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, content) {
			at := 0
			for at < min(len(got), len(content)) && got[at] == content[at] {
				at++
			}
			return fmt.Errorf("%s has %d bytes, want %d, and differs from byte %d", name, len(got), len(content), at)
		}
		seen++
		return nil
	})
	if err == nil && seen != len(want) {
		err = fmt.Errorf("%d files are there, want %d", seen, len(want))
	}
	return err
}

// caller makes random steps on snapshots of its own, on top of layers that all share.
type caller struct {
	name   string
	random *rand.Rand
	model  model // its own and the shared
	last   int   // the number of the last key

	doubt *step // neither acknowledged nor refused
}

// keys lists the snapshots of a kind, the caller's own or all, in an order that the
// seed decides.
func (c *caller) keys(own bool, kinds ...snapshots.Kind) []string {
	var keys []string
	for key, s := range c.model {
		if slices.Contains(kinds, s.kind) && (!own || strings.HasPrefix(key, c.name+"-")) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// next chooses a step that a healthy snapshotter does.
func (c *caller) next() step {
	actives := c.keys(true, snapshots.KindActive)
	all := c.keys(true, snapshots.KindActive, snapshots.KindView, snapshots.KindCommitted)
	leaves := slices.DeleteFunc(slices.Clone(all), c.hasChild)
	const enough = 8
	for {
		s := step{labels: c.someLabels()}
		switch n := c.random.IntN(20); {
		case n < 4 && len(all) < enough:
			s.call, s.key, s.parent = "Prepare", c.newKey(), c.someParent()
		case n < 9 && len(actives) > 0:
			s.call, s.key = "Write", pick(c.random, actives)
			s.edits = c.someEdits(c.model[s.key].files)
		case n < 12 && len(actives) > 0:
			s.call, s.key, s.name = "Commit", pick(c.random, actives), c.newKey()
		case n < 14 && len(all) < enough:
			if s.parent = c.someParent(); s.parent == "" {
				continue
			}
			s.call, s.key = "View", c.newKey()
		case n < 16 && len(leaves) > 0 && len(all) > enough/2:
			s.call, s.key = "Remove", pick(c.random, leaves)
		case n == 16 && len(all) > 0:
			s.call, s.key = "Update", pick(c.random, all)
		case n == 17 && len(all) > 0:
			s.call, s.key, s.usage = "Usage", pick(c.random, all), new(snapshots.Usage)
		case n == 18:
			s.call = "Cleanup"
		default:
			continue
		}
		return s
	}
}

func (c *caller) newKey() string {
	c.last++
	return fmt.Sprintf("%s-%d", c.name, c.last)
}

func (c *caller) hasChild(key string) bool {
	for _, s := range c.model {
		if s.parent == key {
			return true
		}
	}
	return false
}

// someParent is a layer that few others are below, or none.
func (c *caller) someParent() string {
	layers := c.keys(false, snapshots.KindCommitted)
	if len(layers) == 0 || c.random.IntN(5) == 0 {
		return ""
	}
	layer, depth := pick(c.random, layers), 0
	for at := layer; at != ""; at = c.model[at].parent {
		depth++
	}
	if depth > 6 {
		return ""
	}
	return layer
}

func (c *caller) someLabels() map[string]string {
	labels := map[string]string{}
	for range c.random.IntN(3) {
		labels[fmt.Sprintf("test/%d", c.random.IntN(4))] = fmt.Sprint(c.random.IntN(1000))
	}
	return labels
}

// someEdits changes files and makes new ones.
func (c *caller) someEdits(files map[string][]byte) []edit {
	var edits []edit
	gone := map[string]bool{}
	for range 1 + c.random.IntN(4) {
		old := slices.DeleteFunc(slices.Sorted(maps.Keys(files)), func(name string) bool { return gone[name] })
		switch n := c.random.IntN(6); {
		case n == 0 && len(old) > 0:
			e := edit{path: pick(c.random, old)}
			gone[e.path] = true
			edits = append(edits, e)
		case n < 3 && len(old) > 0:
			path := pick(c.random, old)
			edits = append(edits, edit{path, c.random.IntN(len(files[path]) + 1), c.someData()})
		default:
			path := fmt.Sprintf("d%d/f%d", c.random.IntN(3), c.random.IntN(20))
			edits = append(edits, edit{path, 0, c.someData()})
			delete(gone, path)
		}
	}
	return edits
}

func (c *caller) someData() []byte {
	sizes := []int{0, 1, 4095, 4096, 4097, 65536, c.random.IntN(1 << 18), c.random.IntN(1 << 20)}
	data := make([]byte, pick(c.random, sizes))
	seed := [32]byte{}
	for i := range seed {
		seed[i] = byte(c.random.Uint32())
	}
	if _, err := rand.NewChaCha8(seed).Read(data); err != nil {
		panic(err) // it never fails
	}
	return data
}

func pick[T any](random *rand.Rand, of []T) T { return of[random.IntN(len(of))] }
