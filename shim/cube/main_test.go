package cube_test

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	"github.com/peregrine-dev/peregrine/shim/cube"
	"github.com/peregrine-dev/peregrine/shim/cube/cubetest"
	"github.com/peregrine-dev/peregrine/shim/oci"
	"github.com/peregrine-dev/peregrine/shim/plan"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Main(m)) }

func builder(tb testing.TB) *cube.Builder {
	tb.Helper()
	b, err := cube.NewBuilder(cubetest.Init(tb))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := b.Close(); err != nil {
			tb.Error(err)
		}
	})
	return b
}

// box is a container in the making.
type box struct {
	*cube.Process
	tb       testing.TB
	b        *cube.Builder
	compiled *oci.Container
	out      *os.File // what it prints
	console  *os.File
	reaped   bool
	closed   sync.Once
	status   unix.WaitStatus
}

// usual is the spec of a container that runs a shell script.
func usual(tb testing.TB, script string) *specs.Spec {
	tb.Helper()
	text, err := os.ReadFile("../part/usual.json")
	if err != nil {
		tb.Fatal(err)
	}
	var s specs.Spec
	if err := json.Unmarshal(text, &s); err != nil {
		tb.Fatal(err)
	}
	s.Root.Path = cubetest.Root(tb)
	s.Process.Args = []string{"sh", "-c", script}
	return &s
}

// begin makes a container up to its program, of new namespaces or of a cube made ahead.
func begin(tb testing.TB, b *cube.Builder, s *specs.Spec, ahead bool) (*box, error) {
	tb.Helper()
	c, err := oci.Compile("test", s)
	if err != nil {
		tb.Fatal(err)
	}
	namespaces := c.New
	var made cube.Cube
	if ahead {
		m, err := b.Cube()
		if err != nil {
			tb.Fatal(err)
		}
		made = *m
		defer made.Close()
		for t := range made.Namespaces {
			namespaces &^= uintptr(t)
		}
	}
	var pidns *os.File
	for _, ns := range c.Join {
		if ns.Type == unix.CLONE_NEWPID && ns.Path != "" {
			if pidns, err = os.Open(ns.Path); err != nil {
				tb.Fatal(err)
			}
			defer pidns.Close()
		}
	}
	var files cube.Files
	defer files.Close()
	r, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	defer w.Close()
	p, err := b.Init(namespaces, pidns, -1)
	if err != nil {
		r.Close()
		tb.Fatal(err)
	}
	x := &box{Process: p, tb: tb, b: b, compiled: c, out: r}
	tb.Cleanup(x.end)
	if err := p.Ready(); err != nil {
		tb.Fatal(err)
	}
	var namespaceFiles cube.Files
	defer namespaceFiles.Close()
	joins, err := namespaceFiles.Joins(c, made.Namespaces)
	if err == nil && len(joins) > 0 {
		err = p.Join(joins, namespaceFiles.List())
	}
	if err != nil {
		return x, err
	}
	if err := files.Fill(c, tb.TempDir()); err != nil {
		return x, err
	}
	root, err := cube.OpenRoot(nil, s.Root.Path)
	if err != nil {
		tb.Fatal(err)
	}
	c.Plan.Root = files.Add(root)
	if !s.Process.Terminal {
		if err := files.Streams(&c.Plan.Process, [3]*os.File{w, w, w}); err != nil {
			tb.Fatal(err)
		}
	}
	x.console, err = p.CreateInit(&c.Plan, files.List())
	return x, err
}

// run runs a container to its end.
func run(tb testing.TB, b *cube.Builder, s *specs.Spec, generic bool) (out string, status int) {
	tb.Helper()
	x := started(tb, b, s, generic)
	return x.rest(), x.wait()
}

func started(tb testing.TB, b *cube.Builder, s *specs.Spec, generic bool) *box {
	tb.Helper()
	x, err := begin(tb, b, s, generic)
	if err == nil {
		err = x.Start()
	}
	if err != nil {
		tb.Fatal(err)
	}
	return x
}

func (x *box) rest() string {
	x.tb.Helper()
	text, err := io.ReadAll(x.out)
	if err != nil {
		x.tb.Fatal(err)
	}
	return string(text)
}

// wait is the exit status, 128 and the signal's number if that ended it.
func (x *box) wait() int {
	x.tb.Helper()
	x.reap()
	if x.status.Signaled() {
		return 128 + int(x.status.Signal())
	}
	return x.status.ExitStatus()
}

func (x *box) reap() {
	if x.reaped {
		return
	}
	for {
		_, err := unix.Wait4(x.Pid, &x.status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			x.tb.Error(err)
		}
		break
	}
	x.reaped = true
}

// letGo closes it once: the number of the descriptor is soon another's.
func (x *box) letGo() { x.closed.Do(func() { x.Close() }) }

// stop kills it; what it printed can be read yet.
func (x *box) stop() {
	if !x.reaped {
		_ = unix.Kill(x.Pid, unix.SIGKILL)
		x.reap()
	}
}

func (x *box) end() {
	x.letGo()
	x.stop()
	x.out.Close()
	if x.console != nil {
		x.console.Close()
	}
}

// exec brings a further process in.
func (x *box) exec(p plan.Process, pidns bool) (*box, error) {
	x.tb.Helper()
	fd, err := unix.PidfdOpen(x.Pid, 0)
	if err != nil {
		x.tb.Fatal(err)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	var files cube.Files
	defer files.Close()
	var in *os.File
	if pidns {
		in = pidfd
	}
	r, w, err := os.Pipe()
	if err != nil {
		x.tb.Fatal(err)
	}
	defer w.Close()
	e, err := x.b.Exec(in, -1)
	if err != nil {
		x.tb.Fatal(err)
	}
	y := &box{Process: e, tb: x.tb, b: x.b, out: r}
	x.tb.Cleanup(y.end)
	of := &plan.Exec{Init: files.Add(pidfd), Process: p}
	if !p.Terminal {
		if err := files.Streams(&of.Process, [3]*os.File{w, w, w}); err != nil {
			x.tb.Fatal(err)
		}
	}
	y.console, err = e.CreateExec(of, files.List())
	return y, err
}

func mountinfo(tb testing.TB) string {
	tb.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

// descriptors are the numbers of a process's.
func descriptors(tb testing.TB, dir string) string {
	tb.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "fd/*"))
	if err != nil {
		tb.Fatal(err)
	}
	var names []string
	for _, file := range list {
		names = append(names, filepath.Base(file))
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}
