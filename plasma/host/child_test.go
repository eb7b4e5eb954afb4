package host_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"

	"github.com/peregrine-dev/peregrine/plasma/host"
)

// childMain is a host in a process of its own, which is there to be killed.
func childMain(options string) {
	var o host.Options
	if err := json.Unmarshal([]byte(options), &o); err != nil {
		panic(err)
	}
	o.Types = types()
	h, err := host.Start(context.Background(), o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("serves")
	fmt.Fprintln(os.Stderr, <-h.Failed())
	os.Exit(1)
}

// child is such a process. dead is closed when it has ended.
type child struct {
	cmd  *exec.Cmd
	dead chan struct{}
}

// spawn starts a server's host in a process, which is killed at a step if one is named. It
// returns when the host serves, or is dead.
func (c *cluster) spawn(server, failpoint string) *child {
	c.t.Helper()
	o := c.options(server)
	o.Types = nil
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "HOST_TEST_ROOT="+string(encode(o)), "PLASMA_FAILPOINT="+failpoint)
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if os.Getenv("HOST_TEST_VERBOSE") != "" {
		cmd.Stderr = os.Stderr
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	_, _ = fmt.Fscanln(out, new(string))
	p := &child{cmd, make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.dead)
	}()
	return p
}

func (p *child) kill() {
	_ = p.cmd.Process.Kill()
	<-p.dead
}
