package cgroup

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// childEnv makes the test binary a container's process: "wait" sleeps until its
// stdin ends, "eat" then allocates memory for ever, "open" opens the file it is
// given for writing and tells how that went.
const childEnv = "PEREGRINE_CGROUP_CHILD"

// tasksEnv has a child first enter the cgroups whose files, so many, it inherits.
const tasksEnv = "PEREGRINE_CGROUP_TASKS"

// The main thread is the one that enters, and no test is to run on it.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	if n, err := strconv.Atoi(os.Getenv(tasksEnv)); err == nil {
		if err := enterAndExec(n); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
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

// enterAndExec enters cgroups by n inherited files and executes this program anew,
// as an init does with its own.
func enterAndExec(n int) error {
	for fd := 3; fd < 3+n; fd++ {
		if err := writeFd(fd, "", strconv.Itoa(fd), "0"); err != nil {
			return err
		}
		_ = unix.Close(fd)
	}
	if err := os.Unsetenv(tasksEnv); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", os.Args, os.Environ())
}

// child is a process of the test's own.
type child struct {
	*exec.Cmd
	stdin *os.File
	// said is its first line.
	said string
}

func startChild(t testing.TB, mode string, args ...string) *child {
	t.Helper()
	return startChildIn(t, -1, nil, mode, args...)
}

// startIn starts a child in the cgroup as a shim does: it is born in that of v2, if
// there is one, and enters those of v1 by itself.
func startIn(t testing.TB, c *Cgroup, mode string, args ...string) *child {
	t.Helper()
	files, err := c.Tasks()
	defer closeAll(files)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := c.Dir()
	if errdefs.IsNotImplemented(err) {
		return startChildIn(t, -1, files, mode, args...)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	return startChildIn(t, int(dir.Fd()), files, mode, args...)
}

// born starts a child in the v2 cgroup alone, or in none where there is no v2.
func born(t testing.TB, c *Cgroup) *child {
	t.Helper()
	cgroup := -1
	dir, err := c.Dir()
	switch {
	case err == nil:
		defer func() { _ = dir.Close() }()
		cgroup = int(dir.Fd())
	case !errdefs.IsNotImplemented(err):
		t.Fatal(err)
	}
	return startChildIn(t, cgroup, nil, "wait")
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// startChildIn starts a child that is born in the v2 cgroup of a descriptor, unless
// it is -1, and enters others by their files.
func startChildIn(t testing.TB, cgroup int, tasks []*os.File, mode string, args ...string) *child {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), childEnv+"="+mode)
	if len(tasks) > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", tasksEnv, len(tasks)))
		cmd.ExtraFiles = tasks
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	c := &child{Cmd: cmd, stdin: w}
	t.Cleanup(c.end)
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: cgroup >= 0, CgroupFD: cgroup}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if c.said, err = bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("child did not start: %v", err)
	}
	return c
}

func (c *child) pid() int { return c.Process.Pid }

// end kills and reaps the child.
func (c *child) end() {
	if c.Process != nil && c.ProcessState == nil {
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

// makeAll makes the cgroup in every hierarchy.
func (c *Cgroup) makeAll() error {
	if err := c.CreateUnified(); err != nil {
		return err
	}
	return c.CreateOthers()
}

// makeWith makes the cgroup with a process moved into it as its first.
func (c *Cgroup) makeWith(pid int) error {
	if err := c.makeAll(); err != nil {
		return err
	}
	c.SetInit(pid)
	return c.Add(pid)
}

// leave moves a process to where this one is.
func (c *Cgroup) leave(pid int) error {
	for _, m := range c.dirs {
		if err := join(c.host.home(m.subsystem), pid); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cgroup) frozen(t testing.TB) bool {
	t.Helper()
	state, err := c.manager.GetFreezerState()
	if err != nil {
		t.Fatal(err)
	}
	return state == cgroups.Frozen
}

func sweep(t testing.TB, c *Cgroup) {
	t.Helper()
	if err := c.Kill(); err != nil {
		t.Errorf("kill at end: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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

// mustBeGone checks that directories of the cgroup, and maybe the parents they were
// given, left nothing.
func mustBeGone(t testing.TB, members []member, alsoParent bool) {
	t.Helper()
	for _, m := range members {
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
