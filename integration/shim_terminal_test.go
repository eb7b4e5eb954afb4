package integration

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/console"
	"golang.org/x/sys/unix"
)

// terminal runs a shell as somebody at a terminal does, and changes the terminal's size.
func (s *shimUnderTest) terminal(t *testing.T) {
	p := s.atTerminal(t, s.run("--rm", "--tty", s.image, "terminal", "sh")...)
	p.talk(t)
}

// execTerminal does the same in a container that runs.
func (s *shimUnderTest) execTerminal(t *testing.T) {
	const id = "exec-terminal"
	_, err := s.Ctr(t.Context(), s.run("--detach", s.image, id, "sleep", "1000")...)
	if err != nil {
		t.Fatal(err)
	}
	p := s.atTerminal(t, "task", "exec", "--exec-id", "1", "--tty", id, "sh")
	p.talk(t)
	ctr(t, s.Containerd, "task", "rm", "--force", id)
	ctr(t, s.Containerd, "container", "rm", id)
}

// session is a ctr at a terminal of its own.
type session struct {
	cmd      *exec.Cmd
	terminal console.Console

	mu   sync.Mutex
	seen bytes.Buffer
	read chan struct{} // closed when there is no more to see
}

func (s *shimUnderTest) atTerminal(t *testing.T, args ...string) *session {
	t.Helper()
	master, name, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	if err := master.Resize(console.WinSize{Height: 33, Width: 101}); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	p := &session{terminal: master, read: make(chan struct{})}
	if p.cmd, err = s.CtrCommand(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = slave, slave, slave
	p.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.read)
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			p.mu.Lock()
			p.seen.Write(buffer[:n])
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
		<-p.read
		master.Close()
	})
	return p
}

// talk is one conversation with a shell.
func (p *session) talk(t *testing.T) {
	t.Helper()
	const size = "until [ \"$(stty size)\" = \"%\" ]; do sleep 0.01; done; echo size''d\n"
	p.say(t, "tty\n")
	p.wait(t, "/dev/pts/")
	p.say(t, strings.Replace(size, "%", "33 101", 1))
	p.wait(t, "sized")
	if err := p.terminal.Resize(console.WinSize{Height: 40, Width: 90}); err != nil {
		t.Fatal(err)
	}
	p.say(t, strings.Replace(size, "%", "40 90", 1)+"echo twi''ce\n")
	p.wait(t, "twice")
	// The terminal's interrupt reaches what runs in front, once it does: it says so itself.
	p.say(t, "sh -c 'echo rea\"\"dy; exec sleep 1000'; echo inter''rupted\n")
	p.wait(t, "ready")
	p.say(t, "\x03")
	p.wait(t, "# ") // an interrupt takes away what is typed ahead
	p.say(t, "echo sti''ll\n")
	p.wait(t, "still")
	p.say(t, "exit 5\n")
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 5 {
		t.Errorf("ctr ended with %v, want 5; the terminal shows:\n%s", err, p.shown())
	}
}

func (p *session) say(t *testing.T, text string) {
	t.Helper()
	if _, err := p.terminal.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

// wait waits until the terminal shows a text, after what it has been asked for already.
func (p *session) wait(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		p.mu.Lock()
		at := bytes.Index(p.seen.Bytes(), []byte(text))
		if at >= 0 {
			p.seen.Next(at + len(text))
		}
		p.mu.Unlock()
		if at >= 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the terminal doesn't show %q but:\n%s", text, p.shown())
		}
	}
}

func (p *session) shown() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}
