package images

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// mark makes the processes of a build that this test starts recognisable, whatever
// they are: they have no_proxy, which a build passes on, in their environment.
func mark(t *testing.T) string {
	t.Helper()
	needRoot(t)
	if _, err := exec.LookPath("debootstrap"); err != nil {
		t.Fatalf("run `apt-get install debootstrap`: %v", err)
	}
	value := "peregrine.test" + strings.ReplaceAll(t.TempDir(), "/", ".")
	if had := os.Getenv("no_proxy"); had != "" {
		value = had + "," + value
	}
	t.Setenv("no_proxy", value)
	return "no_proxy=" + value
}

// marked returns the command lines of the living processes with that variable in
// their environment, but for the test's own.
func marked(t *testing.T, variable string) []string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, dir := range dirs {
		// A process that has gone meanwhile has no environment.
		environment, _ := os.ReadFile(dir + "/environ")
		if slices.ContainsFunc(bytes.Split(environment, []byte{0}), func(v []byte) bool { return string(v) == variable }) {
			line, _ := os.ReadFile(dir + "/cmdline")
			found = append(found, dir+": "+string(bytes.ReplaceAll(line, []byte{0}, []byte(" "))))
		}
	}
	return found
}

func mounts(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var ours []string
	for line := range strings.Lines(string(content)) {
		// Others on this machine mount as well.
		if strings.Contains(line, " /mnt ") || strings.Contains(line, " - tmpfs peregrine ") {
			ours = append(ours, line)
		}
	}
	return strings.Join(ours, "")
}

func TestCancelledDebianLeavesNothing(t *testing.T) {
	variable, before, cache := mark(t), mounts(t), t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	running := 0
	_, err := Debian(ctx, cache, func(step string, _, _ int64) {
		if strings.HasPrefix(step, "Debian: Retrieving") && running == 0 {
			running = len(marked(t, variable))
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	if running == 0 {
		t.Error("the test doesn't recognise the processes of a build")
	}
	if left := marked(t, variable); len(left) > 0 {
		t.Errorf("processes left: %q", left)
	}
	if after := mounts(t); after != before {
		t.Errorf("mounts left: %s", after)
	}
	checkCache(t, cache)
}

func TestKilledDebianLeavesNothing(t *testing.T) {
	variable, before, cache := mark(t), mounts(t), t.TempDir()
	builder := exec.CommandContext(t.Context(), os.Args[0])
	builder.Env = append(os.Environ(), killMe+"="+cache)
	out, err := builder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := builder.Start(); err != nil {
		t.Fatal(err)
	}
	started := false
	lines := bufio.NewScanner(out)
	for !started && lines.Scan() {
		started = strings.HasPrefix(lines.Text(), "Debian: Retrieving")
		if strings.HasPrefix(lines.Text(), "ended") {
			t.Error(lines.Text())
		}
	}
	if err := builder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = builder.Wait() // it was killed
	if !started {
		t.Fatal("the builder did not come to downloading packages")
	}
	// The kernel kills them when the builder dies; it needn't be at once.
	deadline := time.Now().Add(time.Minute)
	for left := marked(t, variable); len(left) > 0; left = marked(t, variable) {
		if time.Now().After(deadline) {
			t.Fatalf("processes left: %q", left)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if after := mounts(t); after != before {
		t.Errorf("mounts left: %s", after)
	}
	checkCache(t, cache)
}

func TestNoDebootstrap(t *testing.T) {
	needRoot(t)
	t.Setenv("PATH", t.TempDir())
	cache := t.TempDir()
	_, err := Debian(t.Context(), cache, nil)
	if err == nil || !strings.Contains(err.Error(), "apt-get install debootstrap") {
		t.Errorf("error without a remedy: %v", err)
	}
	checkCache(t, cache)
}

func TestMessages(t *testing.T) {
	var steps []string
	m := &messages{progress: func(step string, _, _ int64) { steps = append(steps, step) }}
	for _, part := range []string{"I: Retr", "ieving a\nW: odd\nI: Extracting b\n", "E: cut"} {
		if n, err := m.Write([]byte(part)); n != len(part) || err != nil {
			t.Errorf("wrote %d bytes of %q, error %v", n, part, err)
		}
	}
	if want := []string{"Debian: Retrieving a", "Debian: Extracting b"}; !slices.Equal(steps, want) {
		t.Errorf("steps %q, want %q", steps, want)
	}
	if want := []string{"I: Retrieving a", "W: odd", "I: Extracting b"}; !slices.Equal(m.last, want) {
		t.Errorf("last lines %q, want %q", m.last, want)
	}
}
