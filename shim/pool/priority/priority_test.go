package priority

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func group(t *testing.T, pid string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + pid + "/autogroup")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text[strings.Index(string(text), "nice"):]))
}

func TestLowAndBack(t *testing.T) {
	if !Restorable() {
		t.Fatal("needs CAP_SYS_NICE; run as root")
	}
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	pid, err := Low(func() (int, error) {
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		return cmd.Process.Pid, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if nice, err := Nice(pid); err != nil || nice != low {
		t.Errorf("nice is %d, %v; want %d", nice, err, low)
	}
	if nice, err := Nice(0); err != nil || nice != 0 {
		t.Errorf("this process has nice %d, %v", nice, err)
	}
	if err := Normal(pid); err != nil {
		t.Fatal(err)
	}
	if nice, err := Nice(pid); err != nil || nice != 0 {
		t.Errorf("nice is %d, %v; want 0", nice, err)
	}
}

func TestGroup(t *testing.T) {
	if _, err := os.Stat("/proc/self/autogroup"); err != nil {
		t.Log("this kernel has no groups of sessions") // CONFIG_SCHED_AUTOGROUP
		return
	}
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if _, err := Low(func() (int, error) { err := cmd.Start(); return cmd.Process.Pid, err }); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	p := strconv.Itoa(cmd.Process.Pid)
	if g := group(t, p); g != fmt.Sprint("nice ", low) {
		t.Errorf("the session has %s", g)
	}
	if err := Normal(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if g := group(t, p); g != "nice 0" {
		t.Errorf("the session has %s", g)
	}
}

func TestNormalOfEveryThread(t *testing.T) {
	tids, err := threads(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, tid := range tids {
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, 5); err != nil && !errors.Is(err, unix.ESRCH) {
			t.Fatal(err)
		}
	}
	if err := Normal(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if tids, err = threads(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	for _, tid := range tids {
		if nice, err := Nice(tid); err == nil && nice != 0 {
			t.Errorf("thread %d has nice %d", tid, nice)
		}
	}
}

func TestNobody(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if err := Normal(cmd.Process.Pid); !errors.Is(err, unix.ESRCH) {
		t.Errorf("got %v, want ESRCH", err)
	}
	want := errors.New("no")
	if _, err := Low(func() (int, error) { return 0, want }); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
}
