package peers

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/log"
	"github.com/fsnotify/fsnotify"
)

// fileSource implements Source and Reporter with a file.
type fileSource struct {
	path string
	status

	// A file that is written in place is read when it was left alone for quiet, but not
	// later than patience after the first change.
	quiet, patience time.Duration
	// recheck is how often the file is read without an event: a network file system tells
	// nothing of what other hosts do, and a directory that isn't there can't be watched.
	recheck time.Duration
}

// File is the source of nodes that are written in a TOML file:
//
//	[[node]]
//	name = "a"
//	address = "192.0.2.1"
//	[[node.network]]
//	vni = 42
//	subnets = ["10.42.1.0/24", "fd00:42:1::/64"]
//
// The file may be the same on every node: the entry with the node's own name is left out.
// Unknown keys are errors. Changes are seen at once, whether the file is replaced by a
// rename, as most editors do, is behind symbolic links that change, as Kubernetes'
// ConfigMaps are, or is written in place; a rename is best, for then nobody sees half of
// it. While there is no file, or it can't be read as a whole, the last list holds, and
// before the first there is none; what is wrong in a single node costs that node only.
//
// The source is a Reporter too.
func File(path string) Source {
	return &fileSource{path: path, quiet: 100 * time.Millisecond, patience: time.Second, recheck: 10 * time.Second}
}

// Run implements Source.
func (f *fileSource) Run(ctx context.Context, self Node, changed func([]Node)) error {
	if err := self.Validate(); err != nil {
		return fmt.Errorf("this node: %w", err)
	}
	r := &fileRun{fileSource: f, list: list{self: self, changed: changed, status: &f.status}}
	defer r.unwatch()
	var events <-chan fsnotify.Event
	var lost <-chan error
	next := time.NewTimer(0)
	defer next.Stop()
	var since time.Time // of the first change that wasn't read yet
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
			since = time.Time{}
			r.read(ctx)
			if r.watcher != nil {
				events, lost = r.watcher.Events, r.watcher.Errors
			}
			next.Reset(f.recheck)
			continue
		case <-events:
		case err := <-lost: // events were lost
			log.G(ctx).WithError(err).Debug("lost sight of the file of nodes for a moment")
		}
		if since.IsZero() {
			since = time.Now()
		}
		next.Reset(min(f.quiet, max(0, time.Until(since.Add(f.patience)))))
	}
}

// fileRun is one Run.
type fileRun struct {
	*fileSource
	list    list
	watcher *fsnotify.Watcher // nil if the system has none left, of which was told
	told    bool

	text    []byte // read last, nil if it couldn't be
	ownSaid string // what the file says about this node, if it is wrong and logged
}

// read brings the list up to the file, if it can.
func (f *fileRun) read(ctx context.Context) {
	f.watch(ctx) // before reading: what changes from now on brings another read
	text, err := os.ReadFile(f.path)
	if err == nil && f.text != nil && bytes.Equal(text, f.text) {
		return
	}
	f.text = text
	var nodes []Node
	var unreadable []Rejected
	if err == nil {
		if nodes, unreadable, err = decodeFile(text); err != nil {
			err = fmt.Errorf("%s:%w", f.path, err)
		}
	}
	if err != nil {
		if f.connected(false, err) {
			log.G(ctx).WithError(err).Error("can't read the file of nodes; the last list holds")
		}
		return
	}
	if f.well() {
		log.G(ctx).Info("the file of nodes is right again")
	}
	f.compareOwn(ctx, nodes)
	f.list.set(ctx, nodes, unreadable)
}

// watch watches every directory in which a change can be one of the file: its own, and
// the one that symbolic links lead to. What can't be watched is found by rereading.
func (f *fileRun) watch(ctx context.Context) {
	if f.watcher == nil {
		var err error
		if f.watcher, err = fsnotify.NewWatcher(); err != nil {
			f.watcher = nil
			if !f.told {
				log.G(ctx).WithError(err).Warnf("can't watch the file of nodes, which is read every %s instead; raise fs.inotify.max_user_instances", f.recheck)
			}
			f.told = true
			return
		}
	}
	want := []string{filepath.Dir(f.path)}
	if target, err := filepath.EvalSymlinks(f.path); err == nil {
		want = append(want, filepath.Dir(target))
	}
	for _, dir := range f.watcher.WatchList() {
		if !slices.Contains(want, dir) {
			_ = f.watcher.Remove(dir)
		}
	}
	for _, dir := range want {
		_ = f.watcher.Add(dir) // again: it may be another directory of the same name
	}
}

func (f *fileRun) unwatch() {
	if f.watcher != nil {
		_ = f.watcher.Close()
	}
}

// compareOwn warns of a file that says something else about this node than its
// configuration, for the other nodes go by the file.
func (f *fileRun) compareOwn(ctx context.Context, nodes []Node) {
	i := slices.IndexFunc(nodes, func(n Node) bool { return n.Name == f.list.self.Name })
	if i < 0 || nodes[i].Equal(f.list.self) {
		f.ownSaid = ""
		return
	}
	if said := fmt.Sprint(nodes[i]); said != f.ownSaid {
		f.ownSaid = said
		log.G(ctx).WithFields(nodes[i].fields()).
			WithField("configured_address", f.list.self.Address.String()).
			WithField("configured_networks", f.list.self.Networks).
			Warn("the file of nodes has this node with another address or other subnets, by which the other nodes will go")
	}
}
