package cgroup

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"go.uber.org/goleak"
)

// childEnv makes the test binary a container's process: "wait" sleeps until its
// stdin ends, "eat" then allocates memory for ever, "open" opens the file it is
// given for writing and tells how that went.
const childEnv = "PEREGRINE_CGROUP_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "":
		goleak.VerifyTestMain(m)
	case "wait":
		fmt.Println("ready")
		_, _ = os.Stdin.Read(make([]byte, 1))
	case "open":
		f, err := os.OpenFile(os.Args[1], os.O_WRONLY, 0)
		if err != nil {
			fmt.Println(err.(*os.PathError).Err)
		} else {
			fmt.Println("ok")
			_ = f.Close()
		}
	case "eat":
		fmt.Println("ready")
		_, _ = os.Stdin.Read(make([]byte, 1))
		var held [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			held = append(held, b)
			if len(held) > 1<<10 {
				os.Exit(3)
			}
		}
	}
	os.Exit(0)
}

// child is a process of the test's own.
type child struct {
	*exec.Cmd
	stdin *os.File
}

func startChild(t testing.TB, mode string) *child {
	t.Helper()
	return startChildIn(t, mode, -1)
}

func startChildIn(t testing.TB, mode string, cgroup int) *child {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+mode)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: cgroup >= 0, CgroupFD: cgroup}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	c := &child{cmd, w}
	t.Cleanup(c.end)
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("child did not start: %v", err)
	}
	return c
}

// opener starts a child that opens the device for writing, and waits for what
// it says.
func opener(t testing.TB, device string, out io.Writer) func(int) (int, error) {
	return func(cgroup int) (int, error) {
		cmd := exec.Command("/proc/self/exe", device)
		cmd.Env = append(os.Environ(), childEnv+"=open")
		cmd.Stdout = out
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: cgroup >= 0, CgroupFD: cgroup}
		err := cmd.Run()
		return 0, err
	}
}

func (c *child) pid() int { return c.Process.Pid }

// end kills and reaps the child.
func (c *child) end() {
	if c.ProcessState == nil {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
	_ = c.stdin.Close()
}

// goOn lets the child do what it waits with.
func (c *child) goOn() { _ = c.stdin.Close() }

func warm(t testing.TB) *Host {
	t.Helper()
	h, err := Warm()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// testPath is a cgroup path that no other test uses. The leak checker knows its
// first part.
func testPath(t testing.TB) string {
	t.Helper()
	name := strings.NewReplacer("/", "-", "#", "-", " ", "-").Replace(t.Name())
	return fmt.Sprintf("/peregrine-cgroup-%d/%s", os.Getpid(), name)
}

// newCgroup describes a cgroup and removes all trace of it, its parent too, when
// the test ends.
func newCgroup(t testing.TB, h *Host, path string, r *specs.LinuxResources) *Cgroup {
	t.Helper()
	cfg, err := Config(path, r, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := h.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sweep(t, c) })
	return c
}

func sweep(t testing.TB, c *Cgroup) {
	t.Helper()
	if err := c.Kill(); err != nil {
		t.Errorf("kill at end: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := c.Delete(ctx); err != nil {
		t.Errorf("delete at end: %v", err)
	}
	for _, m := range c.dirs {
		for d := filepath.Dir(m.dir); strings.Contains(d, "/peregrine-"); d = filepath.Dir(d) {
			// Another test's cgroup may be in it still.
			_ = rmdir(d)
		}
	}
}

// file reads a cgroup file of the container; v1 and v2 name the hierarchy and
// the file.
func (c *Cgroup) file(t testing.TB, v1, v1File, v2File string) string {
	t.Helper()
	dir, name := c.paths[v1], v1File
	if c.host.unified {
		dir, name = c.paths[""], v2File
	}
	s, err := read(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(s)
}

func ptr[T any](v T) *T { return &v }

// mustBeGone checks that the cgroup and the parent it was given left nothing.
func mustBeGone(t testing.TB, c *Cgroup, alsoParent bool) {
	t.Helper()
	for _, m := range c.dirs {
		if _, err := os.Stat(m.dir); err == nil {
			t.Errorf("%s is still there", m.dir)
		}
		if p := filepath.Dir(m.dir); alsoParent {
			if _, err := os.Stat(p); err == nil {
				t.Errorf("%s is still there", p)
			}
		}
	}
}

// ctrResources are those of a container made with containerd's default spec.
func ctrResources() *specs.LinuxResources {
	r := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
		CPU:     &specs.LinuxCPU{Shares: ptr[uint64](1024)},
	}
	for _, d := range [][2]int64{{1, 3}, {1, 8}, {1, 7}, {5, 0}, {1, 5}, {1, 9}, {5, 1}, {5, 2}} {
		r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &d[0], Minor: &d[1], Access: "rwm"})
	}
	r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr[int64](136), Access: "rwm"})
	return r
}
