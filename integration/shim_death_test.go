package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sys/unix"
)

// containerdDies kills containerd under a container, which doesn't notice.
func (s *shimUnderTest) containerdDies(t *testing.T) {
	const id = "survivor"
	ctr(t, s.Containerd, s.run("--detach", s.image, id, "sh", "-c", "trap 'exit 6' TERM; while sleep 0.01; do :; done")...)
	pid := s.pid(t, id)
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.status(t, id); got != "RUNNING" {
		t.Errorf("after a restart the task is %q", got)
	}
	if again := s.pid(t, id); again != pid {
		t.Errorf("after a restart the process is %s, was %s", again, pid)
	}
	if out := s.wantExit(t, 0, "task", "exec", "--exec-id", "1", id, "echo", "ok"); out != "ok\n" {
		t.Errorf("after a restart exec printed %q", out)
	}
	ctr(t, s.Containerd, "task", "kill", id)
	s.wantStatus(t, id, "STOPPED")
	s.removed(t, id, 6)
	ctr(t, s.Containerd, "container", "rm", id)
}

// shimDies kills a container's shim: containerd learns of it and nothing is left.
func (s *shimUnderTest) shimDies(t *testing.T) {
	client := s.connect(t)
	c := s.container(t, client, "orphan", oci.WithProcessArgs("sleep", "1000"))
	next := subscribe(t, client, c.ID())
	task, _ := startTask(t, c, cio.NullIO)
	pid := int(task.Pid())
	if err := unix.Kill(parentOf(t, pid), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for {
		event := next()
		if strings.HasPrefix(event, "exit orphan") {
			break
		}
	}
	gone(t, pid)
	s.wantStatus(t, c.ID(), "")
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), filepath.Join(s.Namespace, c.ID())) {
		t.Errorf("mounts are left, or %v:\n%s", err, mounts)
	}
}

// parentOf is the process id of a process's parent.
func parentOf(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	// After the name, which may hold anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	return parent
}
