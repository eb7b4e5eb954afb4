package integration

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
)

// TestDemo runs the demo as make demo does.
func TestDemo(t *testing.T) {
	pooltest.NeedRoot(t)
	leaktest.Check(t)
	table, err := exec.CommandContext(t.Context(), bin+"/peregrine", "demo").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []string{
		"first write into a file of 1 GiB", "disk used by that write", "untar", "read 1 GiB",
		"attach to a network", "detach", "container on a to container on b", "http://", "10 packets of", "both falcond killed",
		"24 clients write", "the global manager's plasmad killed", "the process of a server with", "all ledgers read",
	} {
		if !strings.Contains(string(table), "| "+row) {
			t.Errorf("the table has no row %q:\n%s", row, table)
		}
	}
	if !strings.Contains(string(table), "lost, twice or in another order: 0 ") {
		t.Errorf("entries of ledgers are wrong:\n%s", table)
	}
	nothingLeft(t)
}

// parts are what steps of the demo belong to, of those that come late in the whole.
var parts = map[string]string{"sending packets between nodes": "net", "putting load on a service": "plasma"}

// TestDemoInterrupted stops the demo in the middle, by a terminal's ^C and by a kill
// that it can't see.
func TestDemoInterrupted(t *testing.T) {
	for _, signal := range []unix.Signal{unix.SIGINT, unix.SIGKILL} {
		steps := []string{"starting a private containerd", "pulling the image on baoverlay"}
		if signal == unix.SIGINT {
			steps = append(steps, "sending packets between nodes", "putting load on a service")
		}
		for _, step := range steps {
			t.Run(unix.SignalName(signal)+" while "+step, func(t *testing.T) {
				pooltest.NeedRoot(t)
				leaktest.Check(t)
				args := []string{"demo"}
				if part := parts[step]; part != "" {
					args = append(args, part)
				}
				cmd := exec.CommandContext(t.Context(), bin+"/peregrine", args...)
				steps, err := cmd.StderrPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				reached := false
				for lines := bufio.NewScanner(steps); lines.Scan(); {
					if strings.HasPrefix(lines.Text(), step) && !reached {
						reached = true
						if err := cmd.Process.Signal(signal); err != nil {
							t.Error(err)
						}
					}
				}
				if err := cmd.Wait(); err == nil {
					t.Error("the demo ended well although it was interrupted")
				}
				if !reached {
					t.Errorf("the demo never said %q", step)
				}
				if signal != unix.SIGKILL {
					nothingLeft(t)
					return
				}
				// Files are all that a kill leaves, for the next run to delete.
				workDir(t)
			})
		}
	}
}

// nothingLeft fails the test when a run's directory is still there.
func nothingLeft(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(cache(t), "run"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("left behind: run/%s", e.Name())
	}
}
