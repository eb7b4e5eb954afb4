//go:build vm

package vm_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/integration/images"
	"github.com/peregrine-dev/peregrine/integration/vm"
)

// timeout bounds one VM with all its smoke tests, some three minutes on a machine that is
// not busy. That of go test is ten.
const timeout = 8 * time.Minute

// TestVM boots one VM for the smoke tests of everything: a boot costs more than a test.
func TestVM(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	cache := cacheDir(t)
	busybox, err := images.Busybox(ctx, cache, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := vm.Config{
		Cache:   cache,
		Files:   append(vm.Containerd(cache), vm.File{Host: busybox.Archive, Guest: "/images/busybox.tar"}),
		Smoke:   []string{"smoke/10-containerd.sh"},
		Console: t.Output(),
	}
	if baoverlay := built(t, "containerd-baoverlay-grpc"); baoverlay != "" {
		cfg.Files = append(cfg.Files, vm.File{Host: baoverlay, Guest: "/usr/bin/containerd-baoverlay-grpc"})
		cfg.Files = append(cfg.Files, vm.XFSTools(cache)...)
		cfg.Files = append(cfg.Files, vm.File{Host: program(t, "../../snapshotter/pool", "test", "-c"), Guest: "/usr/bin/pool.test"})
		cfg.Smoke = append(cfg.Smoke, "smoke/20-baoverlay.sh", "smoke/30-quota.sh")
	}
	flashcube := true
	for _, name := range []string{"flashcubed", "flashcube-shim", "flashcube-init", "containerd-shim-flashcube-v1"} {
		path := built(t, name)
		flashcube = flashcube && path != ""
		cfg.Files = append(cfg.Files, vm.File{Host: path, Guest: "/usr/bin/" + name})
	}
	if flashcube {
		cfg.Files = append(cfg.Files,
			vm.File{Host: program(t, "./task-client", "build"), Guest: "/usr/bin/task-client"},
			vm.File{Host: program(t, "../../shim/cgroup", "test", "-c"), Guest: "/usr/bin/cgroup.test"})
		cfg.Files = append(cfg.Files, vm.CRIU(cache)...)
		cfg.Modules = append(cfg.Modules, vm.CRIUModules()...)
		cfg.Smoke = append(cfg.Smoke, "smoke/40-flashcube.sh", "smoke/45-checkpoint.sh", "smoke/50-cgroup.sh")
	}
	if err := vm.Run(ctx, cfg); err != nil {
		t.Fatal(err)
	}
}

// TestVMPipeline boots one with four cores for the network plugin, which moves work between
// cores.
func TestVMPipeline(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	cfg := vm.Config{
		Cache: cacheDir(t), CPUs: 4, Smoke: []string{"smoke/60-pipeline.sh"}, Modules: vm.NetworkModules(), Console: t.Output(),
		Files: []vm.File{
			{Host: program(t, "../../netplugin/cmd/falcond", "build"), Guest: "/usr/bin/falcond"},
			{Host: program(t, "../../netplugin/cmd/falcon", "build"), Guest: "/usr/bin/falcon"},
			{Host: program(t, "./pipeline", "test", "-tags", "vm", "-c"), Guest: "/usr/bin/pipeline.test"},
		},
	}
	if err := vm.Run(ctx, cfg); err != nil {
		t.Fatal(err)
	}
}

// program has a go command, build or test -c, make a program of a package for the VM.
func program(t *testing.T, pkg string, command ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	cmd := exec.CommandContext(t.Context(), "go", append(command, "-ldflags", "-s -w", "-o", path, pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return path
}

// TestVMFailures shows how a VM that fails looks from the host.
func TestVMFailures(t *testing.T) {
	for name, tt := range map[string]struct {
		scripts map[string]string
		hangs   string // when the console says this, the context is cancelled
		want    []string
	}{
		"exit status": {
			scripts: map[string]string{"a.sh": "echo out; exit 3", "b.sh": "exit 0"},
			want:    []string{"smoke tests failed: a.sh (exit status 3)", "out\n", "PEREGRINE-VM: pass b.sh"},
		},
		"panic": {
			scripts: map[string]string{"a.sh": "exit 1", "b.sh": "echo c >/proc/sysrq-trigger; sleep 60"},
			want:    []string{"failed: a.sh", "without a verdict after 1 of 2", "Kernel panic"},
		},
		"hang": {
			scripts: map[string]string{"a.sh": "echo hanging; while :; do sleep 60; done"},
			hangs:   "hanging",
			want:    []string{"the VM was killed after", "context canceled", "--- a.sh"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			temp := t.TempDir()
			t.Setenv("TMPDIR", temp)
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			cfg := vm.Config{Cache: cacheDir(t), Memory: 512}
			if tt.hangs != "" {
				cfg.Console = &watch{text: tt.hangs, seen: cancel}
			}
			scripts := t.TempDir()
			for base, text := range tt.scripts {
				path := filepath.Join(scripts, base)
				if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
				cfg.Smoke = append(cfg.Smoke, path)
			}
			err := vm.Run(ctx, cfg)
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("want an error with %q, got %v", want, err)
				}
			}
			if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
				t.Errorf("left behind in the directory for temporary files: %v, %v", left, err)
			}
		})
	}
}

// watch is an io.Writer that calls seen once the text was written to it, in however many
// pieces.
type watch struct {
	text    string
	seen    func()
	written strings.Builder
}

func (w *watch) Write(p []byte) (int, error) {
	w.written.Write(p)
	if strings.Contains(w.written.String(), w.text) {
		w.seen()
	}
	return len(p), nil
}

// built returns the path of a program that make build makes. Without it the test fails
// but goes on with the smoke tests of the others.
func built(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join("../../bin", name)
	if _, err := os.Stat(path); err != nil {
		t.Errorf("its smoke test is missing, run make build: %v", err)
		return ""
	}
	return path
}

// cacheDir returns the directory that make fills: PEREGRINE_CACHE, or the user's cache.
func cacheDir(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("PEREGRINE_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "peregrine")
}
