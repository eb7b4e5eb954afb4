package ipam

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// processes are those that wrote their PID, which the script does by "echo $$ >> $PIDS".
type processes string

func (p processes) pids(t *testing.T) (pids []int) {
	t.Helper()
	text, err := os.ReadFile(string(p))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, word := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// alive is how many run. A zombie doesn't.
func (p processes) alive(t *testing.T) (n int) {
	t.Helper()
	for _, pid := range p.pids(t) {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err == nil && !bytes.Contains(stat, []byte(") Z ")) {
			n++
		}
	}
	return n
}

func (p processes) wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func newProcesses(t *testing.T) processes {
	t.Helper()
	p := processes(filepath.Join(t.TempDir(), "pids"))
	t.Setenv("PIDS", string(p))
	t.Cleanup(func() {
		for _, pid := range p.pids(t) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	})
	return p
}

// enough is much longer than delay, and much shorter than what the scripts sleep.
const enough = 45 * time.Second

// grandchild runs in the background and has the plugin's output.
const grandchild = `sh -c 'echo $$ >> $PIDS; exec sleep 300' &
while [ ! -s $PIDS ]; do sleep 0.01; done
`

// A plugin that is stopped is stopped with what it has started, in its process group; what
// has left that can't keep the call waiting.
func TestExecStopped(t *testing.T) {
	for name, test := range map[string]struct {
		script string
		left   int
	}{
		"the plugin":                      {`echo $$ >> $PIDS; exec sleep 300`, 0},
		"its child":                       {grandchild + `wait`, 0},
		"a child that has left its group": {strings.Replace(grandchild, "sh -c", "setsid sh -c", 1) + `wait`, 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcesses(t)
			r := plugin(t, "1.1.0", test.script)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() {
				_, err := Add(ctx, r)
				ended <- err
			}()
			p.wait(t, "it runs", func() bool { return p.alive(t) == 1 })
			cancel()
			select {
			case err := <-ended:
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			case <-time.After(enough):
				t.Error("it keeps the call waiting")
				for _, pid := range p.pids(t) {
					_ = unix.Kill(pid, unix.SIGKILL)
				}
				<-ended
			}
			p.wait(t, "they are gone", func() bool { return p.alive(t) <= test.left })
		})
	}
}

// What a plugin leaves running, with its output, doesn't keep the call waiting for long,
// and is left alone.
func TestExecLeavesRunning(t *testing.T) {
	p := newProcesses(t)
	r := plugin(t, "1.1.0", grandchild+`echo '{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.5/24"}]}'`)
	began := time.Now()
	done := time.AfterFunc(2*enough, func() {
		for _, pid := range p.pids(t) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	})
	defer done.Stop()
	result, err := Add(t.Context(), r)
	if err != nil || len(result.IPs) != 1 || time.Since(began) > enough {
		t.Errorf("after %s: %v, %v", time.Since(began), result, err)
	}
	if p.alive(t) != 1 {
		t.Error("it was killed")
	}
}

// A plugin dies with the process that executes it.
func TestExecDiesWithCaller(t *testing.T) {
	p := newProcesses(t)
	dir := plugin(t, "1.1.0", `echo $$ >> $PIDS; exec sleep 300`).Path[1]
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childPlugin+"="+dir)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	p.wait(t, "it runs", func() bool { return p.alive(t) == 1 })
	_ = c.Process.Kill()
	_ = c.Wait()
	p.wait(t, "it is gone", func() bool { return p.alive(t) == 0 })
}

// A plugin that is being written is executed when that is done.
func TestExecBusy(t *testing.T) {
	r := plugin(t, "1.1.0", "exit 0")
	busy, err := os.OpenFile(filepath.Join(r.Path[1], "fake"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := time.AfterFunc(500*time.Millisecond, func() { _ = busy.Close() })
	defer done.Stop()
	if err := Del(t.Context(), r); err != nil {
		t.Error(err)
	}
}
