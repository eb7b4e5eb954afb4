package peers

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/containerd/log"
)

// list is what a Run knows, and makes calls of changed out of what it reads. It belongs to
// Run's goroutine.
type list struct {
	self    Node
	changed func([]Node)
	status  *status

	known    bool // whether nodes was ever
	nodes    []Node
	rejected map[string]string // logged already: reasons by name
}

// set is told all that the source has, in order of precedence. unreadable are nodes that
// the source could not even decode.
func (l *list) set(ctx context.Context, nodes []Node, unreadable []Rejected) {
	good, bad := Select(l.self, nodes)
	bad = append(bad, unreadable...)
	slices.SortStableFunc(bad, func(a, b Rejected) int { return cmp.Compare(a.Name, b.Name) })
	l.reject(ctx, bad)
	l.status.listed(len(good), bad)
	diff := Diff(l.nodes, good)
	if l.known && diff.Empty() {
		return
	}
	diff.Log(ctx)
	l.known, l.nodes = true, good
	l.changed(cloneAll(good))
}

// reject logs what is new of bad.
func (l *list) reject(ctx context.Context, bad []Rejected) {
	rejected := make(map[string]string, len(bad))
	for _, b := range bad {
		reason := b.Err.Error()
		if rejected[b.Name] == "" && l.rejected[b.Name] != reason {
			log.G(ctx).WithError(b.Err).WithField("node", b.Name).
				Warn("left out a node whose record can't be; the others are not affected")
		}
		rejected[b.Name] = cmp.Or(rejected[b.Name], reason)
	}
	l.rejected = rejected
}

// status is a Status that its source changes while others read it.
type status struct {
	mu     sync.Mutex
	now    Status
	logged string // the error that was logged, until all is well
}

// Status implements Reporter.
func (s *status) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now
	now.Rejected = slices.Clone(now.Rejected)
	return now
}

// connected notes that the source was read, or that it wasn't, and what is wrong. It
// returns whether that is to be logged: if it is something else than the last time.
func (s *status) connected(yes bool, err error) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now.Since.IsZero() || s.now.Connected != yes {
		s.now.Connected, s.now.Since = yes, time.Now()
	}
	s.now.Err = err
	if err == nil || err.Error() == s.logged {
		return false
	}
	s.logged = err.Error()
	return true
}

// well notes that nothing is wrong. It returns whether that is to be logged: if the
// contrary was.
func (s *status) well() (news bool) {
	s.connected(true, nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	news = s.logged != ""
	s.logged = ""
	return news
}

func (s *status) listed(nodes int, rejected []Rejected) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.Nodes, s.now.Rejected = nodes, rejected
}
