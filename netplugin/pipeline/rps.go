package pipeline

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
)

// RPS sets the masks of CPUs that the kernel spreads received packets over
// (Documentation/networking/scaling.rst), and remembers in a file what it set. It changes
// a mask only if it is zero, or what it set itself: others belong to whoever set them.
//
// What is set stays when the process ends, however that is: the next one that opens the
// file knows it. The file is good for this boot. Any number of goroutines may use it; one
// process at a time opens it.
type RPS struct {
	file string

	mu  sync.Mutex
	now record // as the file has it
}

// Foreign is a queue whose mask somebody else set. It is left alone.
type Foreign struct {
	Link, Queue string
	CPUs        []int
}

func (f Foreign) String() string {
	return fmt.Sprintf("packets of %s, queue %s, are spread over CPUs %s by somebody else, and left so", f.Link, f.Queue, FormatList(f.CPUs))
}

// OpenRPS reads the file, whose directory exists. None is empty.
func OpenRPS(file string) (*RPS, error) {
	now, err := readRecord(file)
	if err != nil {
		return nil, err
	}
	return &RPS{file: file, now: now}, nil
}

// Set has all queues of a link in a network namespace, nil being the caller's own, spread
// their packets over the CPUs, and returns those which it may not. No CPUs give back what
// was set. errdefs.ErrNotFound: there is no such link (any more). ErrInvalidArgument: the
// kernel doesn't have these CPUs, or all of them are isolated.
func (r *RPS) Set(ns *os.File, link string, cpus []int) (foreign []Foreign, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err = inSysfs(ns, func(s *sysfs) error {
		foreign, err = r.set(s, link, distinct(cpus))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("RPS of %s: %w", link, err)
	}
	return foreign, nil
}

// Restore gives back all masks that were set in a network namespace, nil being the
// caller's own, and returns those that somebody else has changed since.
func (r *RPS) Restore(ns *os.File) (foreign []Foreign, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err = inSysfs(ns, func(s *sysfs) error {
		var errs []error
		for _, name := range r.links(s.netns) {
			others, err := r.set(s, name, nil)
			if errdefs.IsNotFound(err) {
				err = nil
			}
			foreign, errs = append(foreign, others...), append(errs, err)
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		// What is left was of devices that are gone.
		return r.save(r.now.without(func(o owned) bool { return o.NetNS == s.netns }))
	})
	if err != nil {
		return foreign, fmt.Errorf("give back RPS masks: %w", err)
	}
	return foreign, nil
}

// Holds tells whether anything is set that wasn't given back.
func (r *RPS) Holds() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.now.Queues) > 0
}

// Retain forgets all network namespaces but these and the caller's own. Masks end with
// their namespace; those of one that still is would stay as they are for good.
func (r *RPS) Retain(namespaces ...*os.File) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	live := make(map[uint64]bool)
	for _, ns := range append(namespaces, nil) {
		err := inside(ns, func() error {
			cookie, err := netnsCookie()
			live[cookie] = true
			return err
		})
		if err != nil {
			return fmt.Errorf("the number of a network namespace: %w", err)
		}
	}
	return r.save(r.now.without(func(o owned) bool { return !live[o.NetNS] }))
}

// links are the names in a namespace that something was set on.
func (r *RPS) links(netns uint64) []string {
	var names []string
	for _, o := range r.now.Queues {
		if o.NetNS == netns && !slices.Contains(names, o.Link) {
			names = append(names, o.Link)
		}
	}
	return names
}

// set remembers before it sets, and forgets after it gave back.
func (r *RPS) set(s *sysfs, name string, cpus []int) (foreign []Foreign, err error) {
	l, err := s.link(name)
	if err != nil {
		return nil, err
	}
	begun := r.now.without(func(o owned) bool { // of a device that had the name before
		return o.NetNS == s.netns && o.Link == name && o.Index != l.index
	})
	ours := make(map[string][]int) // what they have now, by queue
	for _, queue := range l.queues {
		has, err := s.mask(l, queue)
		if err != nil {
			return nil, err
		}
		masks := r.now.masks(s.netns, l, queue)
		if len(has) > 0 && !slices.Contains(masks, FormatList(has)) {
			if len(cpus) > 0 || len(masks) > 0 {
				foreign = append(foreign, Foreign{name, queue, has})
			}
			begun = begun.with(s.netns, l, queue)
			continue
		}
		ours[queue] = has
		begun = begun.with(s.netns, l, queue, known(has, cpus)...)
	}
	if err := r.save(begun); err != nil {
		return nil, err
	}
	done := begun
	for _, queue := range l.queues {
		has, ok := ours[queue]
		if !ok {
			continue
		}
		if !slices.Equal(has, cpus) {
			if err := s.setMask(l, queue, cpus); err != nil {
				return nil, err
			}
			// The kernel leaves isolated CPUs out.
			if has, err = s.mask(l, queue); err != nil {
				return nil, err
			}
		}
		done = done.with(s.netns, l, queue, known(has)...)
	}
	return foreign, r.save(done)
}

// known are lists of those masks that aren't zero, each once.
func known(masks ...[]int) []string {
	var lists []string
	for _, m := range masks {
		if list := FormatList(m); list != "" && !slices.Contains(lists, list) {
			lists = append(lists, list)
		}
	}
	return lists
}

func (r *RPS) save(next record) error {
	if reflect.DeepEqual(next.Queues, r.now.Queues) || len(next.Queues)+len(r.now.Queues) == 0 {
		return nil
	}
	if err := next.write(r.file); err != nil {
		return err
	}
	r.now = next
	return nil
}
