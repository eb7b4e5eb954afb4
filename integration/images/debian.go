package images

import (
	"bytes"
	"context"
	_ "embed" // debian.sh
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	debianName     = "docker.io/peregrine/debian:bookworm"
	debianSuite    = "bookworm"
	debianPackages = "python3,nodejs,iputils-ping,libcap2-bin"
)

//go:embed debian.sh
var debianScript string

// Debian returns docker.io/peregrine/debian:bookworm: a small Debian with python3,
// nodejs, ping and setcap, in one layer, with bash as the command. ping has a
// security.capability. apt's caches and sources, and the documentation, are left
// out.
//
// Building it takes root, debootstrap, about a minute, a network over which apt's
// own mirror can be reached, and half a gigabyte of memory. Once it is in the
// cache it takes none of these. It is not built again for a newer point release of
// Debian: delete the archive for that.
func Debian(ctx context.Context, cache string, progress Progress) (Image, error) {
	return recipe{
		name: debianName,
		from: strings.Join([]string{debianScript, debianSuite, debianPackages, runtime.GOARCH}, "\n"),
		build: func(ctx context.Context, s *site) (v1.Image, error) {
			layer, err := s.layer(ctx, "installing Debian", 0, func(w io.Writer) error {
				return debootstrap(ctx, w, s.progress)
			})
			if err != nil {
				return nil, err
			}
			return assemble(v1.Config{Env: []string{path}, Cmd: []string{"bash"}}, layer)
		},
	}.cached(ctx, cache, progress)
}

// debootstrap writes the tar of a Debian root to w. When it returns, or when this
// process dies, nothing of what it did is left: no process, no mount, no file.
func debootstrap(ctx context.Context, w io.Writer, progress Progress) error {
	if os.Geteuid() != 0 {
		return errors.New("debootstrap needs root, run as root")
	}
	program, err := exec.LookPath("debootstrap")
	if err != nil {
		return fmt.Errorf("no debootstrap, run `apt-get install debootstrap`: %w", err)
	}
	mirror, err := debianMirror(ctx)
	if err != nil {
		return err
	}

	// The shell is the first process of its PID namespace, so that killing it
	// kills all, and it is killed when the thread dies that started it, which
	// therefore must live as long as this function.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", debianScript, "debian.sh",
		program, debianSuite, debianPackages, mirror)
	cmd.Stdout = w
	messages := &messages{progress: progress}
	cmd.Stderr = messages
	cmd.Env = []string{path, "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	for _, name := range []string{"http_proxy", "https_proxy", "no_proxy"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	// All that is left after a kill holds the pipes, so Wait waits for all.
	cmd.WaitDelay = 30 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("debootstrap failed, check that `apt-get update` works here: %w\n%s",
			err, strings.Join(messages.last, "\n"))
	}
	return nil
}

// debianMirror asks apt where this machine has Debian's packages from.
func debianMirror(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)",
		"Created-By: Packages", "Origin: Debian", "Label: Debian", "Component: main").Output()
	if err != nil {
		return "", fmt.Errorf("ask apt for a mirror of Debian: %w", err)
	}
	for uri := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(uri, "http://") || strings.HasPrefix(uri, "https://") {
			return uri, nil
		}
	}
	return "", errors.New("apt knows no mirror of Debian on this machine, " +
		"add one to /etc/apt/sources.list and run `apt-get update`")
}

// messages takes what debootstrap says: it tells progress and keeps the last
// lines for an error. It is for one goroutine.
type messages struct {
	progress Progress
	part     []byte   // of a line that hasn't ended
	last     []string // lines
}

func (m *messages) Write(p []byte) (int, error) {
	m.part = append(m.part, p...)
	for {
		line, rest, ended := bytes.Cut(m.part, []byte("\n"))
		if !ended {
			return len(p), nil
		}
		m.part = rest
		m.last = append(m.last, string(line))
		m.last = m.last[max(0, len(m.last)-10):]
		if step, ok := bytes.CutPrefix(line, []byte("I: ")); ok {
			m.progress.tell("Debian: "+string(step), 0, 0)
		}
	}
}
