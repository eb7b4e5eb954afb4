package stdio_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/stdio"
)

// script writes a shell script and returns its path.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "logger")
	check(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700))
	return path
}

func TestLogger(t *testing.T) {
	for _, scheme := range []string{"binary", "binary-v2"} {
		t.Run(scheme, func(t *testing.T) {
			watch(t)
			dir := t.TempDir()
			path := script(t, `env | grep ^CONTAINER >$2/env
echo "$@" >$2/args
printf . >&5; exec 5>&-
cat <&3 >$2/out & cat <&4 >$2/err; wait`)
			s := open(t, stdio.Config{Stdout: fmt.Sprintf("%s://%s?dir=%s&z=1", scheme, path, dir), Stderr: "/ignored"})
			if st := start(t, s, "head -c 1000000 /dev/zero; echo bad >&2").wait(t); st != 0 {
				t.Errorf("status %d", st)
			}
			check(t, s.Wait(within(t)))
			check(t, s.Close())
			for name, want := range map[string]string{
				"env":  "CONTAINER_ID=id\nCONTAINER_NAMESPACE=ns\n",
				"args": "dir " + dir + " z 1\n",
				"out":  strings.Repeat("\x00", 1000000),
				"err":  "bad\n",
			} {
				b, err := os.ReadFile(filepath.Join(dir, name))
				check(t, err)
				got := string(b)
				if name == "env" && !(strings.Contains(got, "CONTAINER_ID=id\n") && strings.Contains(got, "CONTAINER_NAMESPACE=ns\n")) ||
					name != "env" && got != want {
					t.Errorf("%s: %d bytes %.80q", name, len(got), got)
				}
			}
		})
	}
}

// TestLoggerCrashed: with binary, the end of descriptor 5 is readiness; with binary-v2
// it is a crash.
func TestLoggerCrashed(t *testing.T) {
	watch(t)
	path := script(t, "exit 7")
	s := open(t, stdio.Config{Stdout: "binary://" + path})
	if st := start(t, s, "echo x || exit 9").wait(t); st != 128+int(unix.SIGPIPE) && st != 9 {
		t.Errorf("status %d, want that of a broken pipe", st)
	}
	check(t, s.Close())
	if _, err := stdio.Open(t.Context(), "ns", "id", stdio.Config{Stdout: "binary-v2://" + path}, 0, 0); !errdefs.IsUnavailable(err) {
		t.Errorf("binary-v2: %v", err)
	}
}

// TestLoggerDies: the process gets what it gets from a dead reader, and one with a
// terminal goes on.
func TestLoggerDies(t *testing.T) {
	path := script(t, "exec 5>&-; head -c 1 <&3 >/dev/null")
	const text = "trap '' PIPE; i=0; while [ $i -lt 200000 ]; do printf x || exit 9; i=$((i+1)); done; exit 0"
	t.Run("pipe", func(t *testing.T) {
		watch(t)
		s := open(t, stdio.Config{Stdout: "binary://" + path})
		if st := start(t, s, text).wait(t); st != 9 {
			t.Errorf("status %d", st)
		}
		check(t, s.Wait(within(t)))
		check(t, s.Close())
	})
	t.Run("terminal", func(t *testing.T) {
		watch(t)
		s := open(t, stdio.Config{Stdout: "binary://" + path, Terminal: true})
		if st := startTerminal(t, s, text).wait(t); st != 0 {
			t.Errorf("status %d", st)
		}
		s.Exited()
		check(t, s.Wait(within(t)))
		check(t, s.Close())
	})
}

// TestLoggerStays needs a SIGTERM to leave.
func TestLoggerStays(t *testing.T) {
	watch(t)
	said := filepath.Join(t.TempDir(), "said")
	path := script(t, "trap 'echo term >"+said+"; exit 0' TERM; exec 5>&-; while :; do sleep 0.05; done")
	s := open(t, stdio.Config{Stdout: "binary://" + path})
	start(t, s, "exit 0").wait(t)
	begin := time.Now()
	check(t, s.Close())
	if d := time.Since(begin); d > patience/2 {
		t.Errorf("Close took %v", d)
	}
	if b, _ := os.ReadFile(said); string(b) != "term\n" {
		t.Errorf("the logger got no SIGTERM: %q", b)
	}
}

// TestLoggerNeverReady is ended by the context.
func TestLoggerNeverReady(t *testing.T) {
	watch(t)
	path := script(t, "exec sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := stdio.Open(ctx, "ns", "id", stdio.Config{Stdout: "binary://" + path}, 0, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
