package task

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/cgroup"
	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/network"
)

// Cleanup ends a container whose shim is dead or must be taken for it, and takes away
// everything of it but the bundle. It returns how the container ended. What is gone
// already is no error.
func Cleanup(ctx context.Context, namespace, id, bundle string) (shim.StopStatus, error) {
	part, err := os.Readlink(filepath.Join(bundle, claim.Link))
	if err == nil {
		err = killPart(part)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return shim.StopStatus{}, err
	}
	status := shim.StopStatus{ExitStatus: 128 + int(unix.SIGKILL), ExitedAt: time.Now()}
	state, err := LoadState(bundle)
	switch {
	case errors.Is(err, fs.ErrNotExist): // there was never a container
		err = nil
	case err != nil:
		return status, err
	case state.Fallback:
		status, err = manager.NewShimManager("io.containerd.flashcube.v1").Stop(namespaces.WithNamespace(ctx, namespace), id)
	default:
		status, err = state.end(ctx, bundle)
	}
	if err != nil {
		return status, err
	}
	if part != "" {
		if err := os.RemoveAll(part); err != nil {
			return status, fmt.Errorf("remove the shim's directory: %w", err)
		}
	}
	return status, forget(bundle)
}

// killPart kills the shim of a part, so that nothing starts any more.
func killPart(part string) error {
	text, err := os.ReadFile(filepath.Join(part, claim.PidFile))
	if err != nil {
		return err
	}
	// The first is the shim.
	line, _, _ := strings.Cut(string(text), "\n")
	pid, start, _ := strings.Cut(line, " ")
	p, err := strconv.Atoi(pid)
	if err != nil {
		return fmt.Errorf("%s of %s: %w", claim.PidFile, part, err)
	}
	began, err := strconv.ParseUint(start, 10, 64)
	if err != nil {
		return fmt.Errorf("%s of %s: %w", claim.PidFile, part, err)
	}
	return killWait(p, began)
}

// killWait kills a process and waits until it is dead.
func killWait(pid int, began uint64) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd)
	// Now the pid can't become another's.
	if now, err := StartTime(pid); err != nil || now != began {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	const longest = 4000 // ms; containerd gives 5 s for all of it
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, longest)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("poll", err)
		}
		if n == 0 {
			return fmt.Errorf("process %d doesn't die", pid)
		}
		return nil
	}
}

// end kills the container and removes its cgroups.
func (s *State) end(ctx context.Context, bundle string) (shim.StopStatus, error) {
	status := shim.StopStatus{Pid: s.Pid, ExitStatus: 128 + int(unix.SIGKILL), ExitedAt: time.Now()}
	if !s.ExitedAt.IsZero() {
		status.ExitStatus, status.ExitedAt = int(s.ExitStatus), s.ExitedAt
	}
	host, err := cgroup.Warm()
	if err != nil {
		return status, err
	}
	if len(s.Cgroups) > 0 {
		c, err := host.Load(s.Cgroups)
		if err != nil {
			return status, err
		}
		if s.Joined {
			if err := c.Kill(); err != nil {
				log.G(ctx).WithError(err).Warn("kill the container's processes")
			}
		}
		if s.Pid != 0 {
			if err := killWait(s.Pid, s.StartTime); err != nil {
				return status, err
			}
		}
		const longest = 4 * time.Second
		bounded, cancel := context.WithTimeout(ctx, longest)
		defer cancel()
		if err := c.Delete(bounded); err != nil && s.Joined {
			return status, err
		}
	} else if s.Pid != 0 {
		if err := killWait(s.Pid, s.StartTime); err != nil {
			return status, err
		}
	}
	if s.NetworkOffer != "" {
		if err := network.Finish(s.NetworkDir, s.NetworkOffer); err != nil {
			return status, err
		}
	}
	err = runHooks(ctx, func(cmd *osexec.Cmd) error { return cmd.Run() }, "poststop", s.Poststop, specs.State{
		Version: specs.Version, ID: s.ID, Status: specs.StateStopped, Bundle: bundle, Annotations: s.Annotations,
	})
	if err != nil {
		log.G(ctx).WithError(err).Warn("poststop")
	}
	return status, nil
}
