package plasma

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
)

// client is a process on a node that calls actors, as an application's front end would.
type client struct {
	in  io.WriteCloser
	end func()

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan reply
	gone    error // why there are no more answers
}

type reply struct {
	ID    uint64 `json:"id"`
	Body  string `json:"body"`
	Error string `json:"error"`
	Own   bool   `json:"own"` // the error is the application's
}

// errOwn is an answer of the application that is an error.
type errOwn struct{ text string }

func (e errOwn) Error() string { return e.text }

// dial starts a client on a node, which ends with the test.
func dial(t *testing.T, n *harness.PlasmaNode, service string) *client {
	t.Helper()
	program, err := filepath.Abs(filepath.Join(bin, "plasma-app"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("nsenter", "--net="+n.NS.Path(), "--", program, "client",
		filepath.Join(n.Run, "clients", service, "agent.sock"), filepath.Join(n.Run, "peers", service))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c := &client{in: in, waiting: map[uint64]chan reply{}}
	first := make(chan reply, 1)
	c.waiting[0] = first
	started, done := make(chan error, 1), make(chan struct{})
	go func() {
		// The death signal comes when this thread ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(done)
		err := cmd.Start()
		started <- err
		if err == nil {
			c.read(out)
			_ = cmd.Wait() // it was killed
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	c.end = func() { _ = cmd.Process.Kill(); <-done }
	t.Cleanup(c.end)
	select {
	case r := <-first:
		if r.Error != "" {
			t.Fatalf("a client on %s: %s", n.Config.Node, r.Error)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("a client on %s has no connection", n.Config.Node)
	}
	return c
}

// read takes answers until there are no more.
func (c *client) read(out io.Reader) {
	lines := json.NewDecoder(out)
	for {
		var r reply
		err := lines.Decode(&r)
		c.mu.Lock()
		if err != nil {
			c.gone = fmt.Errorf("the client has ended: %w", err)
			for _, w := range c.waiting {
				w <- reply{Error: c.gone.Error()}
			}
			c.waiting = nil
			c.mu.Unlock()
			return
		}
		if w := c.waiting[r.ID]; w != nil {
			delete(c.waiting, r.ID)
			w <- r
		}
		c.mu.Unlock()
	}
}

// call calls an actor and waits for the answer, which comes within patience, and a little more if
// it is an error.
func (c *client) call(kind, key, function, body string, patience time.Duration) (string, error) {
	c.mu.Lock()
	if c.gone != nil {
		c.mu.Unlock()
		return "", c.gone
	}
	c.last++
	id, w := c.last, make(chan reply, 1)
	c.waiting[id] = w
	line, err := json.Marshal(map[string]any{"id": id, "type": kind, "key": key, "function": function, "body": body, "patience": patience})
	if err == nil {
		_, err = c.in.Write(append(line, '\n'))
	}
	c.mu.Unlock()
	if err != nil {
		return "", err
	}
	r := <-w
	switch {
	case r.Own:
		return "", errOwn{r.Error}
	case r.Error != "":
		return "", errors.New(r.Error)
	}
	return r.Body, nil
}

// sleep waits, false if ctx is done before.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
