package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/shim/pool"
)

// shimUnderTest is a runtime behind a containerd. What the tests want of ours they want
// of the stock one as well: it is what shows that they want the right things.
type shimUnderTest struct {
	*harness.Containerd
	runtime string
	image   string
}

// TestShim takes every road that a user has to a container's life, on every line of
// containerd.
func TestShim(t *testing.T) {
	for _, version := range harness.Versions {
		for _, runtime := range []string{harness.FlashcubeRuntime, "io.containerd.runc.v2"} {
			t.Run(version+"/"+runtime, func(t *testing.T) {
				b := setUpBundle(t, version)
				c, image := b.Containerd, busybox(t)
				ctr(t, c, "image", "import", image.Archive)
				s := &shimUnderTest{c, runtime, image.Name}
				for _, snapshotter := range []string{"overlayfs", "native", "baoverlay"} {
					s.unpack(t, snapshotter)
					t.Run("life on "+snapshotter, func(t *testing.T) { s.life(t, snapshotter) })
				}
				for name, test := range map[string]func(*testing.T){
					"exit codes":       s.exitCodes,
					"no such program":  s.noSuchProgram,
					"never started":    s.neverStarted,
					"terminal":         s.terminal,
					"exec in terminal": s.execTerminal,
					"log file":         s.logFile,
					"log program":      s.logProgram,
					"streams":          s.streams,
					"large output":     s.largeOutput,
					"events":           s.events,
					"out of memory":    s.outOfMemory,
					"kill all":         s.killAll,
					"containerd dies":  s.containerdDies,
					"shim dies":        s.shimDies,
				} {
					t.Run(name, test)
				}
				if runtime == harness.FlashcubeRuntime {
					noFallback(t, b.Flashcube)
				}
			})
		}
	}
}

// noFallback fails the test when another runtime did the work, or the pool none of it. One
// container may have failed: what has no program is refused by the other runtime, in its
// words.
func noFallback(t *testing.T, f *harness.Flashcube) {
	t.Helper()
	status, err := pool.ReadStatus(f.Root)
	if err != nil {
		t.Fatal(err)
	}
	p := status.Profiles["default"]
	const refused = 1
	if p.Fallbacks["failed"] == refused {
		delete(p.Fallbacks, "failed")
	}
	if len(p.Fallbacks) > 0 || p.Hits == 0 {
		t.Errorf("of the containers %d were from the pool, %d cold, and another runtime ran these: %v", p.Hits, p.Misses, p.Fallbacks)
	}
}

// run is the beginning of a ctr command line.
func (s *shimUnderTest) run(flags ...string) []string {
	return append([]string{"run", "--runtime", s.runtime}, flags...)
}

// wantExit runs ctr and fails the test unless it ends with a code.
func (s *shimUnderTest) wantExit(t *testing.T, want int, args ...string) string {
	t.Helper()
	out, err := s.Ctr(t.Context(), args...)
	code := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		t.Fatal(err)
	}
	if code != want {
		t.Fatalf("ctr %s ended with %d, want %d: %v", strings.Join(args, " "), code, want, err)
	}
	return out
}

// status is what ctr task ls says of a task; empty when there is none.
func (s *shimUnderTest) status(t *testing.T, id string) string {
	t.Helper()
	for line := range strings.Lines(ctr(t, s.Containerd, "task", "ls")) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == id {
			return fields[2]
		}
	}
	return ""
}

// wantStatus waits until a task has a status.
func (s *shimUnderTest) wantStatus(t *testing.T, id, want string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		got := s.status(t, id)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("task %s is %q, want %q", id, got, want)
		}
	}
}

// life does with a container all that ctr can.
func (s *shimUnderTest) life(t *testing.T, snapshotter string) {
	const id = "life"
	ctr(t, s.Containerd, s.run("--snapshotter", snapshotter, "--detach", s.image, id,
		"sh", "-c", "trap 'exit 4' TERM; echo ok > /started; while sleep 0.01; do :; done")...)
	if got := s.status(t, id); got != "RUNNING" {
		t.Errorf("after a start the task is %q", got)
	}
	// exec, in the root of the container.
	if out := s.wantExit(t, 0, "task", "exec", "--exec-id", "1", id,
		"sh", "-c", "until [ -e /started ]; do sleep 0.01; done; cat /started"); out != "ok\n" {
		t.Errorf("exec printed %q", out)
	}
	s.wantExit(t, 3, "task", "exec", "--exec-id", "2", id, "sh", "-c", "exit 3")
	if out := s.wantExit(t, 0, "task", "exec", "--exec-id", "3", "--cwd", "/etc", "--user", "65534:65534", id,
		"sh", "-c", "pwd; id -u"); out != "/etc\n65534\n" {
		t.Errorf("exec with a directory and a user printed %q", out)
	}
	// ps
	pid := s.pid(t, id)
	if out := ctr(t, s.Containerd, "task", "ps", id); !strings.Contains("\n"+out, "\n"+pid+" ") {
		t.Errorf("ps lacks process %s:\n%s", pid, out)
	}
	// metrics
	var metrics struct {
		Memory map[string]any `json:"memory"`
		Pids   map[string]any `json:"pids"`
	}
	out := ctr(t, s.Containerd, "task", "metrics", "--format", "json", id)
	if err := json.Unmarshal([]byte(out), &metrics); err != nil || len(metrics.Memory) == 0 || len(metrics.Pids) == 0 {
		t.Errorf("metrics are %s, %v", out, err)
	}
	// pause, resume
	ctr(t, s.Containerd, "task", "pause", id)
	if got := s.status(t, id); got != "PAUSED" {
		t.Errorf("after a pause the task is %q", got)
	}
	ctr(t, s.Containerd, "task", "resume", id)
	if got := s.status(t, id); got != "RUNNING" {
		t.Errorf("after a resume the task is %q", got)
	}
	// kill, delete
	ctr(t, s.Containerd, "task", "kill", "--signal", "SIGTERM", id)
	s.wantStatus(t, id, "STOPPED")
	s.removed(t, id, 4)
	if got := s.status(t, id); got != "" {
		t.Errorf("a deleted task is %q", got)
	}
	// The container may be started again, on what it has written.
	ctr(t, s.Containerd, "task", "start", "--detach", id)
	if out := s.wantExit(t, 0, "task", "exec", "--exec-id", "1", id, "cat", "/started"); out != "ok\n" {
		t.Errorf("after another start exec printed %q", out)
	}
	ctr(t, s.Containerd, "task", "rm", "--force", id)
	ctr(t, s.Containerd, "container", "rm", id)
}

// pid is the process id of a task.
func (s *shimUnderTest) pid(t *testing.T, id string) string {
	t.Helper()
	for line := range strings.Lines(ctr(t, s.Containerd, "task", "ls")) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == id {
			return fields[1]
		}
	}
	t.Fatalf("no task %s", id)
	return ""
}

func (s *shimUnderTest) exitCodes(t *testing.T) {
	for want, script := range map[int]string{
		0:   "exit 0",
		7:   "exit 7",
		255: "exit 255",
		143: "kill -TERM $$", // as a child, since process 1 gets no signal that it doesn't handle
	} {
		if want == 143 {
			script = "sh -c '" + script + "'; exit $?"
		}
		out := s.wantExit(t, want, s.run("--rm", s.image, fmt.Sprintf("exit-%d", want), "sh", "-c", "echo out; echo err >&2; "+script)...)
		if out != "out\n" {
			t.Errorf("a container that ends with %d printed %q", want, out)
		}
	}
}

// noSuchProgram starts what is not there: the error says what, and nothing is left.
func (s *shimUnderTest) noSuchProgram(t *testing.T) {
	_, err := s.Ctr(t.Context(), s.run("--rm", s.image, "nothing", "/no/such/program")...)
	if err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("the error is %v", err)
	}
	if got := s.status(t, "nothing"); got != "" {
		t.Errorf("the task is %q", got)
	}
	if out := ctr(t, s.Containerd, "container", "ls", "-q"); strings.Contains(out, "nothing") {
		ctr(t, s.Containerd, "container", "rm", "nothing")
	}
	// exec
	ctr(t, s.Containerd, s.run("--detach", s.image, "exec-nothing", "sleep", "1000")...)
	_, err = s.Ctr(t.Context(), "task", "exec", "--exec-id", "1", "exec-nothing", "/no/such/program")
	if err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("the error of exec is %v", err)
	}
	if out := s.wantExit(t, 0, "task", "exec", "--exec-id", "2", "exec-nothing", "echo", "ok"); out != "ok\n" {
		t.Errorf("an exec after one that failed printed %q", out)
	}
	ctr(t, s.Containerd, "task", "rm", "--force", "exec-nothing")
	ctr(t, s.Containerd, "container", "rm", "exec-nothing")
}

// logFile has the shim write a container's output to a file.
func (s *shimUnderTest) logFile(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	ctr(t, s.Containerd, s.run("--detach", "--log-uri", "file://"+log, s.image, "logged", "sh", "-c", "echo out; echo err >&2")...)
	s.wantStatus(t, "logged", "STOPPED")
	s.removed(t, "logged", 0)
	ctr(t, s.Containerd, "container", "rm", "logged")
	text, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(text), "out\n") || !strings.Contains(string(text), "err\n") {
		t.Errorf("the log is %q, %v", text, err)
	}
}

// logProgram has the shim run a program that writes a container's output. It reads
// standard output from descriptor 3, standard error from 4, and closes 5 when it is
// ready. It gets SIGTERM when the task is deleted, and time to end.
func (s *shimUnderTest) logProgram(t *testing.T) {
	dir := t.TempDir()
	log, program := filepath.Join(dir, "log"), filepath.Join(dir, "program")
	script := "#!/bin/sh\ntrap '' TERM\nexec 5>&-\necho \"$CONTAINER_NAMESPACE $CONTAINER_ID\" >> \"$2\"\ncat <&3 >> \"$2\"\ncat <&4 >> \"$2\"\n"
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	ctr(t, s.Containerd, s.run("--detach", "--log-uri", "binary://"+program+"?to="+log, s.image, "logged", "sh", "-c", "echo out; echo err >&2")...)
	s.wantStatus(t, "logged", "STOPPED")
	s.removed(t, "logged", 0)
	ctr(t, s.Containerd, "container", "rm", "logged")
	text, err := os.ReadFile(log)
	if want := s.Namespace + " logged\nout\nerr\n"; err != nil || string(text) != want {
		t.Errorf("the program wrote %q, %v; want %q", text, err, want)
	}
}
