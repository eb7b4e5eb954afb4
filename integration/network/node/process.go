package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/agent"
)

// patience is how long anything may take that is about to happen.
const patience = time.Minute

// process is a daemon.
type process struct {
	cmd   *exec.Cmd
	log   string
	ended chan struct{}
	err   error // valid once ended is closed
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// stop ends it by SIGTERM; one that ended before is no error.
func (p *process) stop() error {
	if !p.running() {
		return nil
	}
	if err := p.cmd.Process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.ended:
		if p.err != nil {
			return fmt.Errorf("falcond: %w\n%s", p.err, p.tail(15))
		}
		return nil
	case <-time.After(patience):
		p.kill()
		return fmt.Errorf("falcond did not end on SIGTERM\n%s", p.tail(15))
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

func (p *process) tail(n int) string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Launch starts falcond and does not wait for it. One that runs is an error of the test.
func (n *Node) Launch() {
	n.t.Helper()
	if n.agent != nil && n.agent.running() {
		n.t.Fatal("falcond runs already")
	}
	if err := n.writeConfig(); err != nil {
		n.t.Fatal(err)
	}
	p := &process{log: filepath.Join(n.Dir, "falcond.log"), ended: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer out.Close()
	p.cmd = exec.Command(filepath.Join(n.Bin, "falcond"))
	p.cmd.Env = append(os.Environ(), n.env()...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	n.NS.Do(func() { err = p.cmd.Start() })
	if err != nil {
		n.t.Fatalf("%v; run make build", err)
	}
	n.agent = p
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
}

// Start starts falcond and waits until its networks are ready.
func (n *Node) Start() {
	n.t.Helper()
	n.Launch()
	n.Eventually(func() error {
		if !n.agent.running() {
			n.t.Fatalf("falcond ended: %v\n%s", n.agent.err, n.agent.tail(15))
		}
		r, err := n.Report()
		if err != nil {
			return err
		}
		for _, network := range r.Networks {
			if network.Problem != "" {
				return fmt.Errorf("network %s: %s", network.Name, network.Problem)
			}
		}
		return nil
	})
}

// Stop ends falcond in good order.
func (n *Node) Stop() {
	n.t.Helper()
	if err := n.agent.stop(); err != nil {
		n.t.Fatal(err)
	}
}

// Kill ends falcond by SIGKILL and waits until it is gone. If it has ended already it does
// nothing.
func (n *Node) Kill() { n.agent.kill() }

// Pid is falcond's process.
func (n *Node) Pid() int { return n.agent.cmd.Process.Pid }

// Log is what falcond has written, from the first start on.
func (n *Node) Log() string { return n.agent.tail(1 << 20) }

// Eventually waits until try succeeds, and ends the test if it doesn't in time.
func (n *Node) Eventually(try func() error) {
	n.t.Helper()
	end := time.Now().Add(patience)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			n.t.Fatalf("%s, in %s: %v", n.Config.Node, patience, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Report asks the agent how it is.
func (n *Node) Report() (agent.Report, error) { return ask(n.Root()) }
