package task

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// runner runs a command to its end.
type runner func(*exec.Cmd) error

// reaped runs a command in a process that reaps all its children.
func reaped(cmd *exec.Cmd) error {
	ch, err := reaper.Default.Start(cmd)
	if err != nil {
		return err
	}
	status, err := reaper.Default.Wait(cmd, ch)
	if err != nil {
		return err
	}
	if status != 0 {
		return fmt.Errorf("exit status %d", status)
	}
	return nil
}

// runHooks runs hooks one after the other, up to the first that fails: each gets the
// container's state on its standard input (config.md of the runtime specification,
// "POSIX-platform Hooks").
func runHooks(ctx context.Context, run runner, kind string, hooks []specs.Hook, state specs.State) error {
	if len(hooks) == 0 {
		return nil
	}
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	for i, h := range hooks {
		if err := runHook(ctx, run, h, text, state.Bundle); err != nil {
			return fmt.Errorf("error running %s hook #%d: %w", kind, i, err)
		}
	}
	return nil
}

func runHook(ctx context.Context, run runner, h specs.Hook, state []byte, dir string) error {
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	var out bytes.Buffer
	// It must not be waited for longer than it may take, nor what it left behind.
	cmd := exec.CommandContext(ctx, h.Path)
	cmd.WaitDelay = time.Second
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env, cmd.Dir = h.Env, dir
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(state), &out, &out
	if err := run(cmd); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		if ctx.Err() != nil {
			return errors.New("hook ran past its timeout")
		}
		return fmt.Errorf("%w, stdout and stderr: %s", err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}
