package stdio_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/stdio"
)

func TestFifos(t *testing.T) {
	for _, scheme := range []string{"", "fifo://"} {
		t.Run("scheme "+scheme, func(t *testing.T) {
			watch(t)
			c := fifos(t)
			out, errs := reader(t, c.Stdout), reader(t, c.Stderr)
			s := open(t, stdio.Config{Stdin: scheme + c.Stdin, Stdout: scheme + c.Stdout, Stderr: scheme + c.Stderr})
			in := writer(t, c.Stdin)
			p := start(t, s, "cat; echo bad >&2; exit 3")
			_, err := in.WriteString("hello\n")
			check(t, err)
			expect(t, out, "hello\n")

			// The input stays open when its writer goes, and takes another one.
			in.Close()
			in = writer(t, c.Stdin)
			_, err = in.WriteString("again\n")
			check(t, err)
			expect(t, out, "again\n")

			// It ends when the writer goes after CloseStdin.
			check(t, s.CloseStdin())
			check(t, s.CloseStdin())
			_, err = in.WriteString("last\n")
			check(t, err)
			in.Close()
			if st := p.wait(t); st != 3 {
				t.Errorf("status %d, want 3", st)
			}
			check(t, s.Wait(within(t)))
			if got := readAll(t, out); got != "last\n" {
				t.Errorf("stdout %q", got)
			}
			if got := readAll(t, errs); got != "bad\n" {
				t.Errorf("stderr %q", got)
			}
			check(t, s.Close())
			for _, path := range []string{c.Stdin, c.Stdout, c.Stderr} {
				if _, err := os.Stat(path); err != nil {
					t.Errorf("containerd's fifo is gone: %v", err)
				}
			}
		})
	}
}

// TestPartial names some of the streams only.
func TestPartial(t *testing.T) {
	all := fifos(t)
	for name, c := range map[string]stdio.Config{
		"in":      {Stdin: all.Stdin},
		"out":     {Stdout: all.Stdout},
		"err":     {Stderr: all.Stderr},
		"out err": {Stdout: all.Stdout, Stderr: all.Stderr},
		"same":    {Stdout: all.Stdout, Stderr: all.Stdout},
	} {
		t.Run(name, func(t *testing.T) {
			watch(t)
			var out, errs *os.File
			if c.Stdout != "" {
				out = reader(t, c.Stdout)
			}
			if c.Stderr != "" && c.Stderr != c.Stdout {
				errs = reader(t, c.Stderr)
			}
			s := open(t, c)
			check(t, s.CloseStdin())
			p := start(t, s, "cat && echo 1 && echo 2 >&2 && echo 3")
			if st := p.wait(t); st != 0 {
				t.Errorf("status %d", st)
			}
			check(t, s.Wait(within(t)))
			wantOut, wantErr := "1\n3\n", "2\n"
			if c.Stderr == c.Stdout {
				wantOut = "1\n2\n3\n"
			}
			if out != nil {
				if got := readAll(t, out); got != wantOut {
					t.Errorf("stdout %q, want %q", got, wantOut)
				}
			}
			if errs != nil {
				if got := readAll(t, errs); got != wantErr {
					t.Errorf("stderr %q, want %q", got, wantErr)
				}
			}
		})
	}
}

func TestNull(t *testing.T) {
	watch(t)
	before := len(descriptors(t))
	s := open(t, stdio.Config{})
	if n := len(descriptors(t)); n != before+1 {
		t.Errorf("%d descriptors more, want /dev/null", n-before)
	}
	p := start(t, s, "test $(readlink /proc/self/fd/2) = /dev/null && read x; echo hi && echo hi >&2")
	if n := len(descriptors(t)); n > before+1 {
		t.Errorf("%d descriptors more after the start", n-before) // One is the pidfd.
	}
	if st := p.wait(t); st != 0 {
		t.Errorf("status %d", st)
	}
	check(t, s.Wait(within(t)))
	check(t, s.Resize(80, 24))
	check(t, s.CloseStdin())
	s.Exited()
}

func TestLarge(t *testing.T) {
	const size = 8 << 20
	random := make([]byte, size)
	rnd := rand.NewChaCha8([32]byte{1})
	_, _ = rnd.Read(random)
	want := sha256.Sum256(random)
	log := filepath.Join(t.TempDir(), "log")
	c := fifos(t)
	for name, stdout := range map[string]string{"fifo": c.Stdout, "file": "file://" + log} {
		t.Run(name, func(t *testing.T) {
			watch(t)
			h := sha256.New()
			read := make(chan error, 1)
			out := reader(t, c.Stdout)
			s := open(t, stdio.Config{Stdin: c.Stdin, Stdout: stdout})
			go func() {
				_, err := io.Copy(h, out)
				read <- err
			}()
			in := writer(t, c.Stdin)
			p := start(t, s, "exec cat")
			if _, err := io.Copy(in, bytes.NewReader(random)); err != nil {
				t.Fatal(err)
			}
			in.Close()
			check(t, s.CloseStdin())
			p.wait(t)
			check(t, s.Wait(within(t)))
			check(t, <-read)
			if name == "file" {
				b, err := os.ReadFile(log)
				check(t, err)
				_, _ = h.Write(b)
			}
			if !bytes.Equal(h.Sum(nil), want[:]) {
				t.Error("the data came out changed")
			}
		})
	}
}

// TestReaderComesBack lets the client of stdout leave while the process prints more
// than fits anywhere, and another one come.
func TestReaderComesBack(t *testing.T) {
	watch(t)
	c := fifos(t)
	first := reader(t, c.Stdout)
	s := open(t, stdio.Config{Stdout: c.Stdout})
	p := start(t, s, "echo one; kill -STOP $$; head -c 1000000 /dev/zero | tr '\\0' x; echo two")
	expect(t, first, "one\n")
	first.Close()
	stopped(t, p.pid)
	check(t, unix.Kill(p.pid, unix.SIGCONT))
	second := reader(t, c.Stdout)
	got := readAll(t, second)
	if want := strings.Repeat("x", 1000000) + "two\n"; got != want {
		t.Errorf("got %d bytes, want %d", len(got), len(want))
	}
	if st := p.wait(t); st != 0 {
		t.Errorf("status %d", st)
	}
	check(t, s.Wait(within(t)))
}

// stopped waits until a process has stopped itself.
func stopped(t *testing.T, pid int) {
	t.Helper()
	var info unix.Siginfo
	check(t, unix.Waitid(unix.P_PID, pid, &info, unix.WSTOPPED|unix.WNOWAIT, nil))
}

// TestNobodyReads closes while a process hangs in a full fifo.
func TestNobodyReads(t *testing.T) {
	watch(t)
	c := fifos(t)
	out := reader(t, c.Stdout)
	s := open(t, stdio.Config{Stdout: c.Stdout})
	p := start(t, s, "head -c 1000000 /dev/zero")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait: %v, want the context's error", err)
	}
	check(t, s.Close())
	p.wait(t)
	out.Close()
}

// TestGrandchild leaves a process behind that holds the output.
func TestGrandchild(t *testing.T) {
	watch(t)
	c := fifos(t)
	out := reader(t, c.Stdout)
	s := open(t, stdio.Config{Stdout: c.Stdout})
	p := start(t, s, "sleep 60 & echo $!")
	p.wait(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait: %v, want the context's error", err)
	}
	check(t, s.Close())
	var pid int
	for _, d := range strings.TrimSpace(readAll(t, out)) {
		pid = pid*10 + int(d-'0')
	}
	if pid < 2 {
		t.Fatal("no pid came out")
	}
	check(t, unix.Kill(pid, unix.SIGKILL))
}

// TestLateReader opens a fifo whose client comes only after that.
func TestLateReader(t *testing.T) {
	watch(t)
	c := fifos(t)
	type result struct {
		s   *stdio.IO
		err error
	}
	opened := make(chan result, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		s, err := stdio.Open(ctx, "ns", "id", stdio.Config{Stdout: c.Stdout}, 0, 0)
		opened <- result{s, err}
	}()
	select {
	case r := <-opened:
		t.Fatalf("opened without a reader: %v", r.err)
	case <-time.After(20 * time.Millisecond):
	}
	out, err := os.Open(c.Stdout)
	check(t, err)
	r := <-opened
	check(t, r.err)
	cancel()
	start(t, r.s, "echo late").wait(t)
	check(t, r.s.Wait(within(t)))
	if got := readAll(t, out); got != "late\n" {
		t.Errorf("stdout %q", got)
	}
	out.Close()
	check(t, r.s.Close())
}

func TestNoReader(t *testing.T) {
	watch(t)
	c := fifos(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := stdio.Open(ctx, "ns", "id", c, 0, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the context's error", err)
	}
}

func TestFile(t *testing.T) {
	watch(t)
	path := filepath.Join(t.TempDir(), "a", "b", "log")
	for range 2 {
		s := open(t, stdio.Config{Stdout: "file://" + path, Stderr: "/ignored"})
		start(t, s, "echo 1; echo 2 >&2").wait(t)
		check(t, s.Wait(within(t)))
		check(t, s.Close())
	}
	b, err := os.ReadFile(path)
	check(t, err)
	if string(b) != "1\n2\n1\n2\n" {
		t.Errorf("log: %q", b)
	}
	// A plain path to a file is appended to, too, but not made.
	s := open(t, stdio.Config{Stdout: path, Stderr: path})
	start(t, s, "echo 3; echo 4 >&2").wait(t)
	check(t, s.Wait(within(t)))
	b, err = os.ReadFile(path)
	check(t, err)
	if string(b) != "1\n2\n1\n2\n3\n4\n" {
		t.Errorf("log: %q", b)
	}
}

// TestFullDisk goes on when the log can't be written.
func TestFullDisk(t *testing.T) {
	watch(t)
	s := open(t, stdio.Config{Stdout: "/dev/full"})
	if st := start(t, s, "head -c 1000000 /dev/zero").wait(t); st != 0 {
		t.Errorf("status %d", st)
	}
	check(t, s.Wait(within(t)))
}

// TestStdinClosedInside lets the process close its input while the client types.
func TestStdinClosedInside(t *testing.T) {
	watch(t)
	c := fifos(t)
	out := reader(t, c.Stdout)
	s := open(t, stdio.Config{Stdin: c.Stdin, Stdout: c.Stdout})
	in := writer(t, c.Stdin)
	p := start(t, s, "exec <&-; echo closed")
	expect(t, out, "closed\n")
	p.wait(t)
	check(t, in.SetDeadline(time.Now().Add(patience)))
	chunk := make([]byte, 4096)
	for {
		if _, err := in.Write(chunk); err != nil {
			if !errors.Is(err, unix.EPIPE) {
				t.Errorf("got %v, want EPIPE", err)
			}
			break
		}
	}
}

func TestOwner(t *testing.T) {
	watch(t)
	c := fifos(t)
	out := reader(t, c.Stdout)
	s, err := stdio.Open(within(t), "ns", "id", stdio.Config{Stdin: c.Stdin, Stdout: c.Stdout}, 1234, 5678)
	check(t, err)
	child := s.Child()
	for i, f := range child[:2] {
		var st unix.Stat_t
		check(t, unix.Fstat(int(f.Fd()), &st))
		if st.Uid != 1234 || st.Gid != 5678 {
			t.Errorf("descriptor %d belongs to %d:%d", i, st.Uid, st.Gid)
		}
		fl, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
		check(t, err)
		if fl&unix.O_NONBLOCK != 0 {
			t.Errorf("descriptor %d doesn't block", i)
		}
	}
	check(t, s.Close())
	check(t, s.Close())
	out.Close()
}

func TestErrors(t *testing.T) {
	c := fifos(t)
	missing := filepath.Join(t.TempDir(), "missing")
	for name, tc := range map[string]struct {
		c    stdio.Config
		is   func(error) bool
		text string
	}{
		// The text of the stock shim comes first, for those who look for it.
		"scheme":         {stdio.Config{Stdin: c.Stdin, Stdout: "carrier-pigeon:///x"}, errdefs.IsInvalidArgument, "unknown STDIO scheme carrier-pigeon"},
		"address":        {stdio.Config{Stdout: "file://%zz/x"}, errdefs.IsInvalidArgument, "unable to parse stdout uri"},
		"no stdin":       {stdio.Config{Stdin: missing}, errdefs.IsNotFound, missing},
		"no stdout":      {stdio.Config{Stdin: c.Stdin, Stdout: missing}, errdefs.IsNotFound, missing},
		"no stderr":      {stdio.Config{Stderr: missing}, errdefs.IsNotFound, missing},
		"no binary":      {stdio.Config{Stdout: "binary://" + missing}, errdefs.IsNotFound, "failed to start binary process"},
		"file in a file": {stdio.Config{Stdout: "file:///dev/null/x"}, func(err error) bool { return errors.Is(err, unix.ENOTDIR) }, "log of the process"},
	} {
		for _, terminal := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				if terminal && tc.c.Stderr != "" {
					return // A terminal has none.
				}
				watch(t)
				tc.c.Terminal = terminal
				s, err := stdio.Open(t.Context(), "ns", "id", tc.c, 0, 0)
				if s != nil || err == nil || !tc.is(err) || !strings.Contains(err.Error(), tc.text) {
					t.Errorf("got %v, want %q", err, tc.text)
				}
			})
		}
	}
}
