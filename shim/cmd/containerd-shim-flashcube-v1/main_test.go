package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/proto"

	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/claim/claimtest"
)

// binary is this command, built once.
var binary string

func TestMain(m *testing.M) {
	claimtest.Main()
	os.Exit(run1(m))
}

func run1(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tiny")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, name)
	for out, args := range map[string][]string{
		binary:  {"."},
		empty(): {filepath.Join(dir, "empty.go")},
	} {
		if args[0] != "." {
			if err := os.WriteFile(args[0], []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
				panic(err)
			}
		}
		build := exec.CommandContext(context.Background(), "go", append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", out}, args...)...)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := build.CombinedOutput(); err != nil {
			panic(fmt.Sprintf("%v: %s", err, text))
		}
	}
	return m.Run()
}

// empty is a program that does nothing, to compare with.
func empty() string { return filepath.Join(filepath.Dir(binary), "empty") }

// host is a directory of binaries and a root.
type host struct{ bin, root, bundle string }

func newHost(t testing.TB, withShim bool) host {
	t.Helper()
	h := host{bin: t.TempDir(), root: memory(t), bundle: t.TempDir()}
	if err := os.Link(binary, filepath.Join(h.bin, name)); err != nil {
		t.Fatal(err)
	}
	if withShim {
		claimtest.Install(t, h.bin)
	}
	return h
}

// memory is a new directory in a file system like /run's.
func memory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "flashcube")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func (h host) dir() string { return claim.Profile(h.root, "default") }

// call runs the binary as containerd does and returns its output and errors together.
func (h host) call(t testing.TB, stdin []byte, env []string, args ...string) ([]byte, error) {
	t.Helper()
	// A shim that keeps our output open would make this wait for ever.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(h.bin, name), args...)
	cmd.Dir = h.bundle
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = append([]string{"FLASHCUBE_ROOT=" + h.root, "GOMAXPROCS=2", "TTRPC_ADDRESS=/c.ttrpc", "PATH=/nowhere"}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd.CombinedOutput()
}

var flags = []string{"-namespace", "ns", "-address", "/c.sock", "-publish-binary", "/bin/containerd", "-id", "id"}

func params(t testing.TB, level bootapi.LogLevel) []byte {
	t.Helper()
	b, err := proto.Marshal(&bootapi.BootstrapParams{
		InstanceID: "id", Namespace: "ns", LogLevel: level, ContainerdVersion: "v2.4.2",
		ContainerdTtrpcAddress: "/p.ttrpc", ContainerdGrpcAddress: "/p.sock", ContainerdBinary: "/p/containerd",
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func end(t testing.TB, r claimtest.Report) {
	t.Helper()
	if err := syscall.Kill(r.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Error(err)
	}
}

func TestStart(t *testing.T) {
	max := []string{"MAX_SHIM_VERSION=2"}
	for name, c := range map[string]struct {
		stdin   []byte
		env     []string
		args    []string
		address func([]byte) (string, error)
		want    claim.Request
		file    bool
	}{
		"2.3": {
			params(t, 0), max, append(flags, "start"),
			func(out []byte) (string, error) {
				var r bootapi.BootstrapResult
				err := proto.Unmarshal(out, &r)
				if r.Version != 3 || r.Protocol != "ttrpc" || len(r.Extensions) != 1 {
					err = fmt.Errorf("bad result %v", &r)
				}
				return r.Address, err
			},
			claim.Request{TTRPCAddress: "/p.ttrpc", GRPCAddress: "/p.sock", PublishBinary: "/p/containerd"},
			false,
		},
		"2.3, debug": {
			params(t, bootapi.LogLevel_LOG_LEVEL_TRACE), max, append(flags, "start"),
			func(out []byte) (string, error) {
				var r bootapi.BootstrapResult
				err := proto.Unmarshal(out, &r)
				return r.Address, err
			},
			claim.Request{TTRPCAddress: "/p.ttrpc", GRPCAddress: "/p.sock", PublishBinary: "/p/containerd", Debug: true},
			false,
		},
		"1.7": {
			nil, max, append(flags, "-debug", "start"),
			func(out []byte) (string, error) {
				text, ok := bytes.CutPrefix(out, []byte(`{"version":2,"address":"`))
				text, ok2 := bytes.CutSuffix(text, []byte(`","protocol":"ttrpc"}`))
				if !ok || !ok2 {
					return "", fmt.Errorf("bad answer %s", out)
				}
				return string(text), nil
			},
			claim.Request{TTRPCAddress: "/c.ttrpc", GRPCAddress: "/c.sock", PublishBinary: "/bin/containerd", Debug: true},
			true,
		},
		"1.6": {
			nil, nil, append(flags, "start"),
			func(out []byte) (string, error) { return string(out), nil },
			claim.Request{TTRPCAddress: "/c.ttrpc", GRPCAddress: "/c.sock", PublishBinary: "/bin/containerd"},
			true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, true)
			out, err := h.call(t, c.stdin, c.env, c.args...)
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			address, err := c.address(out)
			if err != nil {
				t.Fatal(err)
			}
			r := claimtest.Ask(t, address)
			defer end(t, r)
			c.want.ID, c.want.Namespace, c.want.Bundle, c.want.Parent = "id", "ns", h.bundle, os.Getpid()
			if r.Claim != c.want {
				t.Errorf("claimed for %+v, want %+v", r.Claim, c.want)
			}
			text, err := os.ReadFile(filepath.Join(h.bundle, "address"))
			if (err == nil) != c.file || c.file && string(text) != address {
				t.Errorf("the file address: %s, %v", text, err)
			}
		})
	}
}

func TestStartTakesAReadyPart(t *testing.T) {
	h := newHost(t, true)
	if err := claim.Prepare(h.dir()); err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(h.dir(), claim.Building, "n")
	if err := os.Mkdir(part, 0o700); err != nil {
		t.Fatal(err)
	}
	shim := exec.CommandContext(t.Context(), filepath.Join(h.bin, claim.ShimBinary), "-dir", part)
	if err := shim.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = shim.Process.Kill(); _ = shim.Wait() }()
	for deadline := time.Now().Add(time.Minute); !claim.Exists(filepath.Join(h.dir(), claim.Ready, "n")); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the part doesn't get ready")
		}
	}
	out, err := h.call(t, nil, nil, append(flags, "start")...)
	if want := "unix://" + filepath.Join(h.dir(), claim.Claimed, "n", claim.Socket); err != nil || string(out) != want {
		t.Fatalf("got %s, %v; want %s", out, err, want)
	}
	if r := claimtest.Ask(t, string(out)); r.Pid != shim.Process.Pid || r.Claim.ID != "id" || r.SelfMade {
		t.Errorf("reported %+v", r)
	}
}

func TestErrors(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		env  []string
		says string
	}{
		"no action":     {flags, nil, "want start or delete"},
		"other action":  {append(flags, "stop"), nil, "\"stop\""},
		"no id":         {[]string{"-namespace", "ns", "start"}, nil, "-id"},
		"unknown flag":  {[]string{"-x", "start"}, nil, "unknown flag -x"},
		"no value":      {[]string{"-id"}, nil, "needs a value"},
		"no shim":       {append(flags, "start"), nil, "install it beside"},
		"no shim, info": {[]string{"-info"}, nil, "install it beside"},
		"long root":     {append(flags, "start"), []string{"FLASHCUBE_ROOT=/" + strings.Repeat("x", 100)}, "shorter FLASHCUBE_ROOT"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := newHost(t, false).call(t, nil, c.env, c.args...)
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), c.says) {
				t.Errorf("got %s, %v; want it to say %s", out, err, c.says)
			}
		})
	}
}

func TestDelete(t *testing.T) {
	full := func(t *testing.T, h host) string {
		t.Helper()
		return "cleanup in " + h.bundle + ": " + strings.Join(flags, " ")
	}
	for name, c := range map[string]struct {
		prepare func(h host) error
		fast    bool
	}{
		"nothing left": {func(host) error { return nil }, true},
		"part gone":    {func(h host) error { return os.Symlink("/nowhere/at/all", filepath.Join(h.bundle, claim.Link)) }, true},
		"part there":   {func(h host) error { return os.Symlink(h.bin, filepath.Join(h.bundle, claim.Link)) }, false},
		"state there":  {func(h host) error { return os.WriteFile(filepath.Join(h.bundle, claim.StateFile), nil, 0o600) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, true)
			if err := c.prepare(h); err != nil {
				t.Fatal(err)
			}
			out, err := h.call(t, nil, nil, append(slices.Clone(flags), "delete")...)
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if !c.fast {
				if want := full(t, h); string(out) != want {
					t.Errorf("got %q, want %q", out, want)
				}
				return
			}
			var r taskapi.DeleteResponse
			if err := proto.Unmarshal(out, &r); err != nil || r.ExitStatus != killed || time.Since(r.ExitedAt.AsTime()).Abs() > time.Minute {
				t.Errorf("got %v, %v", &r, err)
			}
		})
	}
	t.Run("of a bundle elsewhere", func(t *testing.T) {
		h := newHost(t, true)
		elsewhere := t.TempDir()
		if err := os.WriteFile(filepath.Join(elsewhere, claim.StateFile), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := h.call(t, nil, nil, append(slices.Clone(flags), "-bundle", elsewhere, "delete")...)
		if err != nil || !strings.HasSuffix(string(out), "-bundle "+elsewhere) {
			t.Errorf("got %s, %v", out, err)
		}
	})
}

func TestInfoAndVersion(t *testing.T) {
	h := newHost(t, true)
	if out, err := h.call(t, []byte("options"), nil, "-info"); err != nil || string(out) != "options" {
		t.Errorf("-info: %s, %v", out, err)
	}
	if out, err := h.call(t, nil, nil, "-v"); err != nil || !strings.Contains(string(out), "Version:") {
		t.Errorf("-v: %s, %v", out, err)
	}
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"--id=a=b", "-debug", "-bundle", "-x", "-debug=false", "start", "-id", "z"})
	if err != nil || o.id != "a=b" || o.debug || o.bundle != "-x" || o.action != "start" || len(o.flags) != 5 {
		t.Errorf("got %+v, %v", o, err)
	}
}

// TestImports keeps the program small: what it imports is loaded twice per container.
func TestImports(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		if slices.Contains([]string{"os", "fmt", "time", "reflect", "unicode", "net", "encoding/json"}, p) || strings.HasPrefix(p, "google.golang.org/") {
			t.Errorf("imports %s", p)
		}
	}
}

// benchmark runs a program as containerd does. After each run it calls again, which
// isn't timed.
func benchmark(b *testing.B, path string, args []string, again func(h host, out []byte)) {
	h := newHost(b, true)
	if path == binary {
		path = filepath.Join(h.bin, name) // which has a shim beside it
	}
	for b.Loop() {
		cmd := exec.CommandContext(b.Context(), path, args...)
		cmd.Dir = h.bundle
		cmd.Env = []string{"FLASHCUBE_ROOT=" + h.root, "GOMAXPROCS=2"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		if again != nil {
			b.StopTimer()
			again(h, out)
			b.StartTimer()
		}
	}
}

func BenchmarkEmptyProgram(b *testing.B) { benchmark(b, empty(), nil, nil) }

func BenchmarkDelete(b *testing.B) {
	benchmark(b, binary, append(slices.Clone(flags), "delete"), nil)
}

func BenchmarkStart(b *testing.B) {
	full := false
	benchmark(b, binary, append(slices.Clone(flags), "start"), func(h host, out []byte) {
		if !full { // the first one was cold
			end(b, claimtest.Ask(b, string(out)))
			fill(b, h.dir())
			full = true
			b.ResetTimer()
			return
		}
		part := filepath.Dir(strings.TrimPrefix(string(out), "unix://"))
		if err := os.Rename(part, filepath.Join(h.dir(), claim.Ready, filepath.Base(part))); err != nil {
			b.Fatal(err)
		}
	})
}
