package stdio_test

import (
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/console"
	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/shim/stdio"
)

// startTerminal runs a shell script in a terminal of s.
func startTerminal(t *testing.T, s *stdio.IO, script string) *process {
	t.Helper()
	if s.Child() != [3]*os.File{} {
		t.Error("there are descriptors for a process with a terminal")
	}
	master, slavePath := newPty(t)
	slave, err := os.OpenFile(slavePath, os.O_RDWR|syscall.O_NOCTTY, 0)
	check(t, err)
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	p := spawn(t, cmd)
	slave.Close()
	check(t, s.Attach(master))
	s.Start()
	return p
}

// newPty returns the master as a plain file, which is what a shim receives.
func newPty(t *testing.T) (*os.File, string) {
	t.Helper()
	master, slave, err := console.NewPty()
	check(t, err)
	fd, err := syscall.Dup(int(master.Fd()))
	check(t, err)
	syscall.CloseOnExec(fd)
	check(t, master.Close())
	return os.NewFile(uintptr(fd), "ptmx"), slave
}

func TestTerminal(t *testing.T) {
	watch(t)
	c := fifos(t)
	c.Terminal, c.Stderr = true, ""
	out := reader(t, c.Stdout)
	s := open(t, c)
	check(t, s.Resize(1, 1)) // Nothing to resize yet.
	in := writer(t, c.Stdin)
	p := startTerminal(t, s, "read x; echo got $x; read x; stty size; exit 4")
	_, err := in.WriteString("abc\n")
	check(t, err)
	expect(t, out, "abc\r\ngot abc\r\n")
	check(t, s.Resize(132, 43))
	_, err = in.WriteString("go\n")
	check(t, err)
	if st := p.wait(t); st != 4 {
		t.Errorf("status %d", st)
	}
	s.Exited()
	s.Exited()
	check(t, s.Wait(within(t)))
	if got := readAll(t, out); got != "go\r\n43 132\r\n" {
		t.Errorf("got %q", got)
	}
	check(t, s.Resize(10, 10))
}

// TestTerminalDrain exits right after printing much.
func TestTerminalDrain(t *testing.T) {
	watch(t)
	for range 20 {
		c := fifos(t)
		c = stdio.Config{Stdout: c.Stdout, Terminal: true}
		out := reader(t, c.Stdout)
		s := open(t, c)
		p := startTerminal(t, s, "head -c 30000 /dev/zero | tr '\\0' x")
		p.wait(t)
		s.Exited()
		check(t, s.Wait(within(t)))
		if got := readAll(t, out); got != strings.Repeat("x", 30000) {
			t.Fatalf("got %d bytes of 30000", len(got))
		}
		out.Close()
		check(t, s.Close())
	}
}

// TestTerminalHangup ends the input: the process loses its terminal.
func TestTerminalHangup(t *testing.T) {
	watch(t)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP) // a process begins with what is ignored, as by nohup, not with what is caught
	defer signal.Stop(hup)
	c := fifos(t)
	c = stdio.Config{Stdin: c.Stdin, Stdout: c.Stdout, Terminal: true}
	out := reader(t, c.Stdout)
	s := open(t, c)
	in := writer(t, c.Stdin)
	p := startTerminal(t, s, "echo up; exec sleep 60")
	expect(t, out, "up\r\n")
	in.Close()
	check(t, s.CloseStdin())
	if st := p.wait(t); st != 128+int(syscall.SIGHUP) {
		t.Errorf("status %d, want that of SIGHUP", st)
	}
	check(t, s.Wait(within(t)))
	check(t, s.CloseStdin())
}

// TestTerminalReopened: EIO between two processes isn't the end.
func TestTerminalReopened(t *testing.T) {
	watch(t)
	c := fifos(t)
	c = stdio.Config{Stdout: c.Stdout, Terminal: true}
	out := reader(t, c.Stdout)
	s := open(t, c)
	master, slavePath := newPty(t)
	check(t, s.Attach(master))
	for _, word := range []string{"one", "two"} {
		slave, err := os.OpenFile(slavePath, os.O_RDWR|syscall.O_NOCTTY, 0)
		check(t, err)
		_, err = io.WriteString(slave, word)
		check(t, err)
		expect(t, out, word)
		slave.Close()
	}
	s.Exited()
	check(t, s.Wait(within(t)))
}

func TestTerminalOutputs(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	for name, stdout := range map[string]string{
		"none": "", "file": "file://" + log, "binary": "binary://" + script(t, "exec 5>&-; cat <&3 >"+log+"; cat <&4 >>"+log),
	} {
		t.Run(name, func(t *testing.T) {
			watch(t)
			_ = os.Remove(log)
			s := open(t, stdio.Config{Stdout: stdout, Terminal: true})
			p := startTerminal(t, s, "echo hello")
			p.wait(t)
			s.Exited()
			check(t, s.Wait(within(t)))
			check(t, s.Close())
			if name == "none" {
				return
			}
			b, err := os.ReadFile(log)
			check(t, err)
			if string(b) != "hello\r\n" {
				t.Errorf("log: %q", b)
			}
		})
	}
}

// TestTerminalStuck closes while nobody reads and the process prints on.
func TestTerminalStuck(t *testing.T) {
	watch(t)
	c := fifos(t)
	c.Terminal = true
	out := reader(t, c.Stdout)
	s := open(t, c)
	p := startTerminal(t, s, "exec cat /dev/zero")
	expect(t, out, "\x00\x00")
	time.AfterFunc(50*time.Millisecond, s.Exited)
	check(t, s.Close())
	if st := p.wait(t); st != 128+int(syscall.SIGHUP) && st != 1 {
		t.Errorf("status %d", st)
	}
}

// TestExitedFirst attaches the terminal of a process that is gone already.
func TestExitedFirst(t *testing.T) {
	watch(t)
	c := fifos(t)
	out := reader(t, c.Stdout)
	s := open(t, stdio.Config{Stdout: c.Stdout, Terminal: true})
	master, slavePath := newPty(t)
	slave, err := os.OpenFile(slavePath, os.O_RDWR|syscall.O_NOCTTY, 0)
	check(t, err)
	_, err = io.WriteString(slave, "said before")
	check(t, err)
	slave.Close()
	s.Exited()
	check(t, s.Attach(master))
	check(t, s.Wait(within(t)))
	if got := readAll(t, out); got != "said before" {
		t.Errorf("got %q", got)
	}
}

func TestAttachRefused(t *testing.T) {
	watch(t)
	s := open(t, stdio.Config{})
	master, _ := newPty(t)
	if err := s.Attach(master); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("without a terminal: %v", err)
	}
	s = open(t, stdio.Config{Terminal: true})
	check(t, s.Close())
	master, _ = newPty(t)
	if err := s.Attach(master); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("after Close: %v", err)
	}
}
