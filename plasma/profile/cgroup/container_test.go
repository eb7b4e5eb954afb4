package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

const child = "PEREGRINE_PROFILE_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(child) != "" {
		burn()
		return
	}
	goleak.VerifyTestMain(m)
}

// burn uses 30 ms of a processor for each line that it reads.
func burn() {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var before, now unix.Rusage
		_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
		for now = before; now.Utime.Nano()+now.Stime.Nano() < before.Utime.Nano()+before.Stime.Nano()+30e6; {
			_ = unix.Getrusage(unix.RUSAGE_SELF, &now)
		}
		fmt.Println("done")
	}
}

// process is one in a cgroup of its own.
type process struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func (p *process) burn(t testing.TB) {
	t.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.out.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
}

func (p *process) end() {
	_ = p.Process.Kill()
	_ = p.Wait()
	_ = p.in.Close()
}

// start starts a process by a function that may choose where.
func start(t testing.TB, how func(*exec.Cmd) error) *process {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make cgroups")
	}
	p := &process{Cmd: exec.Command("/proc/self/exe")}
	p.Env = append(os.Environ(), child+"=1")
	var err error
	if p.in, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := how(p.Cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	return p
}

// put puts a process into a cgroup of the name, below the test's own.
func (h *Hierarchies) put(t testing.TB, pid int, name string) (cgroup string) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	own := membership(string(text))
	points := map[string]bool{}
	for _, controller := range []string{"cpu", "cpuacct", "memory"} {
		dir, _, err := h.directory(own, controller, "")
		if err != nil {
			t.Fatal(err)
		}
		points[dir] = true
	}
	name = fmt.Sprintf("peregrine-profile-%d-%s", os.Getpid(), name)
	for dir := range points {
		dir = filepath.Join(dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { remove(t, dir) })
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// remove waits until the kernel has let go of those that have ended.
func remove(t testing.TB, dir string) {
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Error(err)
			return
		}
		time.Sleep(time.Millisecond) // there is nothing to wait for
	}
}

func find(t testing.TB) *Hierarchies {
	t.Helper()
	h, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// kinds are the machine's own hierarchies, and its unified one as if it were all there is.
func kinds(t testing.TB) map[string]*Hierarchies {
	h := find(t)
	all := map[string]*Hierarchies{"own": h}
	if len(h.legacy) > 0 && h.unified != nil {
		all["unified"] = &Hierarchies{unified: h.unified, network: h.network}
	}
	return all
}

func TestRead(t *testing.T) {
	for name, h := range kinds(t) {
		t.Run(name, func(t *testing.T) {
			p := start(t, (*exec.Cmd).Start)
			cgroup := h.put(t, p.Process.Pid, name)
			t.Cleanup(p.end) // before the cgroup goes
			c, err := h.Open(p.Process.Pid, cgroup)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			before, err := c.Read()
			if err != nil {
				t.Fatal(err)
			}
			p.burn(t)
			after, err := c.Read()
			if err != nil {
				t.Fatal(err)
			}
			if used := after.CPU - before.CPU; used < 25*time.Millisecond || used > 10*time.Second {
				t.Errorf("used %s, want 30 ms at least", used)
			}
			if u := after.Since(before); u.CPU <= 0 || u.Network != 0 || filepath.Base(c.Path()) != cgroup {
				t.Errorf("%s: %+v", c.Path(), u)
			}
			if c.memory != none && after.Memory == 0 {
				t.Error("it uses no memory")
			}
			if ns, err := c.Network(); ns != nil || err != nil {
				t.Errorf("a namespace %v, %v, want the host's", ns, err)
			}
			p.end()
			if _, err := c.Read(); !errdefs.IsNotFound(err) {
				t.Errorf("read after the end: %v", err)
			}
			if _, err := h.Open(p.Process.Pid, cgroup); !errdefs.IsNotFound(err) {
				t.Errorf("open after the end: %v", err)
			}
		})
	}
}

// TestUnified reads what a kernel with version 2 alone would write.
func TestUnified(t *testing.T) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	path, ok := membership(string(text))[""]
	if !ok {
		t.Skip("this process is in no unified hierarchy")
	}
	root := t.TempDir()
	dir := filepath.Join(root, path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &Hierarchies{unified: &mount{root, "/"}, network: find(t).network}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if c, err := h.Open(os.Getpid(), ""); !errdefs.IsNotFound(err) {
		t.Fatalf("without cpu.stat: %v, %v", c, err)
	}
	write("cpu.stat", "usage_usec 5\nuser_usec 1\n")
	c, err := h.Open(os.Getpid(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if r, err := c.Read(); err != nil || r.CPU != 5*time.Microsecond || r.Throttled != 0 || r.Memory != 0 {
		t.Errorf("the processor alone: %+v, %v", r, err)
	}
	write("cpu.stat", "usage_usec 7\nnr_throttled 1\nthrottled_usec 3\n")
	write("memory.current", "1000\n")
	write("memory.stat", "anon 1\ninactive_anon 5\ninactive_file 300\n")
	full, err := h.Open(os.Getpid(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if r, err := full.Read(); err != nil || r.CPU != 7*time.Microsecond || r.Throttled != 3*time.Microsecond || r.Memory != 700 {
		t.Errorf("all controllers: %+v, %v", r, err)
	}
	write("cpu.stat", "nothing\n")
	if _, err := c.Read(); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no usage: %v", err)
	}
}

func TestElsewhere(t *testing.T) {
	h := find(t)
	p := start(t, (*exec.Cmd).Start)
	for pid, cgroup := range map[int]string{p.Process.Pid: "/no/such", 0: "", -1: "", 1 << 30: ""} {
		if c, err := h.Open(pid, cgroup); !errdefs.IsNotFound(err) {
			t.Errorf("process %d in %q: %v, %v", pid, cgroup, c, err)
		}
	}
}

func TestNetwork(t *testing.T) {
	h := find(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	inside, outside := netnstest.New(t), netnstest.New(t)
	netnstest.Wire(netnstest.End{NS: inside, Link: "eth0"}, netnstest.End{NS: outside, Link: "eth0"}, 1500)
	inside.Address("eth0", "10.0.0.1/24")
	outside.Address("eth0", "10.0.0.2/24")
	inside.Echo("udp", "10.0.0.1:7")
	p := start(t, func(cmd *exec.Cmd) (err error) {
		inside.Do(func() { err = cmd.Start() })
		return err
	})
	c, err := h.Open(p.Process.Pid, "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before, err := c.Read()
	if err != nil {
		t.Fatal(err)
	}
	if err := outside.Try("udp", "10.0.0.1:7", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	after, err := c.Read()
	if err != nil {
		t.Fatal(err)
	}
	if after.Network <= before.Network {
		t.Errorf("%d bytes, then %d", before.Network, after.Network)
	}
	ns, err := c.Network()
	if err != nil || ns == nil {
		t.Fatalf("namespace %v: %v", ns, err)
	}
	defer ns.Close()
	var own, want unix.Stat_t
	if err := errors.Join(unix.Fstat(int(ns.Fd()), &own), unix.Fstat(int(inside.File().Fd()), &want)); err != nil || own.Ino != want.Ino {
		t.Errorf("namespace %d, want %d: %v", own.Ino, want.Ino, err)
	}
}

// BenchmarkRead reads a hundred containers in turn.
func BenchmarkRead(b *testing.B) {
	h := find(b)
	for _, network := range []bool{false, true} {
		b.Run(fmt.Sprintf("network=%t", network), func(b *testing.B) {
			begin := (*exec.Cmd).Start
			if network && os.Geteuid() == 0 {
				ns := netnstest.New(b)
				begin = func(cmd *exec.Cmd) (err error) {
					ns.Do(func() { err = cmd.Start() })
					return err
				}
			}
			const n = 100
			var processes []*process
			var all []*Container
			for range n {
				processes = append(processes, start(b, begin))
			}
			for i, p := range processes {
				cgroup := h.put(b, p.Process.Pid, strconv.Itoa(i))
				b.Cleanup(p.end)
				c, err := h.Open(p.Process.Pid, cgroup)
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(c.Close)
				all = append(all, c)
			}
			i := 0
			for b.Loop() {
				if _, err := all[i%n].Read(); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}
