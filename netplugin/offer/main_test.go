package offer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network is a network's directory and the one who attaches to it.
type network struct {
	*testing.T
	dir   string
	maker *fakeMaker
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{T: t, dir: filepath.Join(t.TempDir(), "network", "blue"), maker: newFakeMaker()}
	home := inode(t, "/proc/self/ns/net")
	t.Cleanup(func() {
		for _, path := range mounts(t, n.dir) {
			if err := unmount(path); err != nil {
				t.Error(err)
			}
		}
		if got := inode(t, "/proc/self/ns/net"); got != home {
			t.Error("the process is in another network namespace than before")
		}
		// A thread ends a little later than its goroutine.
		n.until("no thread is in another network namespace", func() bool {
			tasks, _ := filepath.Glob("/proc/self/task/*/ns/net")
			return !slices.ContainsFunc(tasks, func(task string) bool {
				var st unix.Stat_t
				return unix.Stat(task, &st) == nil && st.Ino != home
			})
		})
	})
	return n
}

// keeper is one that does nothing late.
func (n *network) keeper(want int) *Keeper {
	p := defaultPace()
	p.quiet, p.resync, p.retry, p.rest = 0, 20*time.Millisecond, time.Millisecond, 10*time.Millisecond
	return &Keeper{Dir: n.dir, Want: want, Maker: n.maker, pace: p}
}

// run runs a Keeper until the function that it returns is called, which may be twice.
func (n *network) run(k *Keeper) (stop func()) {
	n.Helper()
	ctx, cancel := context.WithCancel(n.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			n.Errorf("Run: %v", err)
		}
	})
	n.Cleanup(stop)
	return stop
}

func (n *network) until(what string, f func() bool) {
	n.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	timeout := time.After(time.Minute)
	for !f() {
		select {
		case <-tick.C:
		case <-timeout:
			n.Fatalf("waited in vain until %s; there is %v", what, n.all())
		}
	}
}

func (n *network) all() map[state][]string {
	all, err := (&Keeper{Dir: n.dir}).listAll()
	if err != nil {
		n.Error(err)
	}
	return all
}

func (n *network) count(s state) int { return len(n.all()[s]) }

func (n *network) has(s state, name string) bool { return has(n.all()[s], name) }

// settled waits for so many ready offers and none that is on its way.
func (n *network) settled(want int) {
	n.Helper()
	are := func() bool {
		all := n.all()
		return len(all[ready]) == want && len(all[making]) == 0 && len(all[done]) == 0
	}
	// Twice: one that moves while they are listed may be in no list.
	n.until(fmt.Sprintf("%d are ready", want), func() bool {
		first, second := are(), are()
		return first && second
	})
}

func (n *network) path(s state, names ...string) string {
	return filepath.Join(append([]string{n.dir, string(s)}, names...)...)
}

// put makes an offer by hand, as far as a Keeper comes before it is killed.
func (n *network) put(s state, name string, files, mounted, attached bool) {
	n.Helper()
	if err := os.MkdirAll(n.path(s, name), 0o700); err != nil {
		n.Fatal(err)
	}
	if files && !mounted {
		n.write(s, name, namespaceFile, "")
	}
	if mounted {
		if err := makeNamespace(n.path(s, name, namespaceFile)); err != nil {
			n.Fatal(err)
		}
	}
	if attached {
		n.maker.known[name] = true
	}
}

func (n *network) write(s state, name, file, text string) {
	n.Helper()
	if err := os.WriteFile(n.path(s, name, file), []byte(text), 0o600); err != nil {
		n.Fatal(err)
	}
}

// take takes an offer as the shim does.
func (n *network) take(owner string) (name string, ok bool) {
	entries, err := os.ReadDir(n.path(ready))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.Error(err)
	}
	for _, e := range entries {
		if err := os.Mkdir(n.path(taken), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			n.Error(err)
		}
		if os.Rename(n.path(ready, e.Name()), n.path(taken, e.Name())) != nil {
			continue
		}
		if err := checkNamespace(n.path(taken, e.Name(), namespaceFile)); err != nil {
			n.Error(err)
		}
		if err := os.WriteFile(n.path(taken, e.Name(), ownerFile), []byte(owner+"\n"), 0o600); err != nil {
			n.Error(err)
		}
		return e.Name(), true
	}
	return "", false
}

// use notes whose an offer is, as the shim does.
func (n *network) use(name, bundle string) {
	n.Helper()
	n.write(taken, name, containerFile, fmt.Sprintf(`{"id":"c","namespace":"default","bundle":%q,"pid":7}`, bundle))
}

// finish ends an offer as the shim does.
func (n *network) finish(name string) {
	n.Helper()
	if err := os.Rename(n.path(taken, name), n.path(done, name)); err != nil {
		n.Fatal(err)
	}
}

// clean checks that there is nothing but what is ready or taken.
func (n *network) clean() {
	n.Helper()
	all := n.all()
	offers := len(all[ready]) + len(all[taken])
	if got := mounts(n, n.dir); len(got) != offers || len(all[making])+len(all[done]) > 0 {
		n.Errorf("there are %d mounts and %v", len(got), all)
	}
	n.maker.mu.Lock()
	defer n.maker.mu.Unlock()
	for name := range n.maker.known {
		if !has(all[ready], name) && !has(all[taken], name) {
			n.Errorf("%s is attached, and no offer", name)
		}
	}
}

// mounts are the mount points below a directory.
func mounts(t testing.TB, dir string) []string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var found []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if path := strings.Fields(lines.Text())[4]; strings.HasPrefix(path, dir+"/") {
			found = append(found, path)
		}
	}
	return found
}

func inode(t testing.TB, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st.Ino
}

// fakeMaker knows what was attached. Its functions, if any, come first.
type fakeMaker struct {
	attach, detach func(ctx context.Context, id string) error

	mu       sync.Mutex
	known    map[string]bool
	inodes   map[uint64]string
	attached int // ever
	detached []string
	busy     bool
}

func newFakeMaker() *fakeMaker {
	return &fakeMaker{known: map[string]bool{}, inodes: map[uint64]string{}}
}

func (m *fakeMaker) Attach(ctx context.Context, id string, ns *os.File, path string) error {
	if err := m.begin(ctx, id, m.attach); err != nil {
		return err
	}
	defer m.mu.Unlock()
	var own, other unix.Stat_t
	if err := errors.Join(unix.Fstat(int(ns.Fd()), &own), unix.Stat(path, &other), checkNamespace(path)); err != nil {
		return err
	}
	if own.Ino != other.Ino {
		return fmt.Errorf("ns is %d, and %s %d", own.Ino, path, other.Ino)
	}
	m.known[id] = true
	m.inodes[own.Ino] = id
	m.attached++
	return nil
}

func (m *fakeMaker) Detach(ctx context.Context, id string) error {
	if err := m.begin(ctx, id, m.detach); err != nil {
		return err
	}
	defer m.mu.Unlock()
	delete(m.known, id)
	m.detached = append(m.detached, id)
	return nil
}

// begin returns with the lock unless it fails, and panics if calls overlap.
func (m *fakeMaker) begin(ctx context.Context, id string, f func(context.Context, string) error) error {
	m.mu.Lock()
	if m.busy {
		panic("one method at a time")
	}
	m.busy = true
	m.mu.Unlock()
	var err error
	if f != nil {
		err = f(ctx, id)
	}
	m.mu.Lock()
	m.busy = false
	if err != nil {
		m.mu.Unlock()
	}
	return err
}

func (m *fakeMaker) Known(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.known[id]
}

func (m *fakeMaker) idOf(inode uint64) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inodes[inode]
}

// count is how many were attached ever.
func (m *fakeMaker) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.attached
}

func (m *fakeMaker) wasDetached(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Contains(m.detached, id)
}
