package suite

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	module = "github.com/containerd/containerd/v2"

	// The changed tests read these from the environment.
	envDir      = "PEREGRINE_SUITE_DIR"
	envRegistry = "PEREGRINE_SUITE_REGISTRY"
	envDigest   = "PEREGRINE_SUITE_BUSYBOX"

	// state is where containerd has its sockets and bundles: the suite's users that are not
	// root must get there, which a cache in somebody's home does not let them. It is in
	// /run, which in a sandbox is private.
	state = "/run/peregrine-suite"

	// sourceDir, beside the binary, is the changed copy of the module.
	sourceDir = "source"
)

// Build compiles the tests, and the program runc-fp that some of them
// need beside them, into the cache, once per version of containerd and of the
// changes, and returns the binary. tools is the directory of the module that pins
// containerd.
func Build(ctx context.Context, cache, tools string) (binary string, err error) {
	source, err := moduleDir(ctx, tools)
	if err != nil {
		return "", err
	}
	changed, err := changes(source)
	if err != nil {
		return "", err
	}
	version, err := output(ctx, tools, "go", "version")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "suite", key(source, string(version), changed))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", dir, err)
	}
	binary = filepath.Join(dir, "client.test")
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	return binary, compile(ctx, source, dir, binary, changed)
}

// compile builds the binary from a copy of the module with the changes in it: the go
// command lets no overlay replace what is in its module cache.
func compile(ctx context.Context, source, dir, binary string, changed map[string]string) error {
	private := filepath.Join(dir, sourceDir)
	if err := os.RemoveAll(private); err != nil {
		return err
	}
	if err := os.CopyFS(private, os.DirFS(source)); err != nil {
		return fmt.Errorf("copy containerd's source: %w", err)
	}
	for file, text := range changed {
		file = filepath.Join(private, file)
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err // the module cache is read-only, and so is a copy
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if _, err := output(ctx, private, "go", "build", "-o", filepath.Join(dir, "runc-fp"), "./integration/failpoint/cmd/runc-fp"); err != nil {
		return fmt.Errorf("compile containerd's failpoint for runc: %w", err)
	}
	part := binary + ".part"
	if _, err := output(ctx, private, "go", "test", "-c", "-o", part, "./integration/client"); err != nil {
		return fmt.Errorf("compile containerd's suite: %w", err)
	}
	return os.Rename(part, binary)
}

// moduleDir is where the go command keeps the containerd that tools pins.
func moduleDir(ctx context.Context, tools string) (string, error) {
	out, err := output(ctx, tools, "go", "mod", "download", "-json", module)
	if err != nil {
		return "", fmt.Errorf("find the source of containerd: %w", err)
	}
	var found struct{ Dir string }
	if err := json.Unmarshal(out, &found); err != nil {
		return "", fmt.Errorf("find the source of containerd: %w", err)
	}
	return found.Dir, nil
}

var (
	registryName = regexp.MustCompile(`"(ghcr\.io|registry\.k8s\.io)`)
	pinned       = regexp.MustCompile(`@sha256:[0-9a-f]{64}"`)
)

// changes returns the files of the module that are others here, by path in the module.
func changes(source string) (map[string]string, error) {
	changed := map[string]string{}
	for dir, pkg := range map[string]string{"integration/images": "images", "integration/client": "client"} {
		files, err := filepath.Glob(filepath.Join(source, dir, "*.go"))
		if err != nil {
			return nil, err
		}
		name := "peregrine_test.go"
		for _, file := range files {
			if strings.Contains(file, "windows") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			if now := change(string(text)); now != string(text) {
				changed[filepath.Join(dir, filepath.Base(file))] = now
				if !strings.HasSuffix(file, "_test.go") {
					name = "peregrine.go"
				}
			}
		}
		changed[filepath.Join(dir, name)] = fmt.Sprintf(environment, pkg, envRegistry, envDigest)
	}
	changed["integration/client/client_unix.go"] = fmt.Sprintf(places, envDir, state)
	return changed, nil
}

// change makes names of images ones of our registry, whose port is known only when it runs.
func change(text string) string {
	// The label has the host without the port.
	text = strings.ReplaceAll(text, `LabelDistributionSource + "." + source`,
		`LabelDistributionSource + "." + strings.Split(source, ":")[0]`)
	text = registryName.ReplaceAllString(text, `peregrineRegistry + "`)
	return pinned.ReplaceAllString(text, `@" + peregrineDigest`)
}

const environment = `package %s

import "os"

var (
	peregrineRegistry = os.Getenv(%q)
	peregrineDigest   = os.Getenv(%q)
)

var _ = peregrineRegistry + peregrineDigest
`

const places = `package client

import "os"

var (
	defaultRoot    = os.Getenv(%[1]q) + "/root"
	defaultState   = %[2]q
	defaultAddress = %[2]q + "/c.sock"
)
`

// key names a build by what it is made from.
func key(source, version string, changed map[string]string) string {
	sum := sha256.New()
	fmt.Fprintln(sum, source, version)
	for _, file := range slices.Sorted(maps.Keys(changed)) {
		fmt.Fprintln(sum, file, changed[file])
	}
	return fmt.Sprintf("%x", sum.Sum(nil)[:8])
}

// Names lists the top-level tests of a binary.
func Names(ctx context.Context, binary string) ([]string, error) {
	out, err := output(ctx, filepath.Dir(binary), binary, "-test.short", "-test.list", "^Test")
	if err != nil {
		return nil, fmt.Errorf("list containerd's tests: %w", err)
	}
	return slices.DeleteFunc(strings.Fields(string(out)), func(s string) bool { return !strings.HasPrefix(s, "Test") }), nil
}

// output runs a program in a directory.
func output(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	var diagnostics bytes.Buffer
	cmd.Stderr = &diagnostics
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, bytes.TrimSpace(diagnostics.Bytes()))
	}
	return out, nil
}
