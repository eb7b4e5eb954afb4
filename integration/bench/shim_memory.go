package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
)

// memory measures what a ready part takes, and what the stock shim of a container takes
// when there are as many of them.
func (b *shimBench) memory(ctx context.Context, s samples, round int) error {
	if err := b.steady(ctx); err != nil {
		return err
	}
	parts, err := b.pool.Parts()
	if err != nil {
		return err
	}
	for _, pids := range parts {
		sum := 0.0
		for _, pid := range pids {
			kib, err := pss(pid)
			if err != nil {
				return err
			}
			sum += kib
		}
		s.add("memory", flashcube, sum)
	}
	return b.inTurn(round, []string{runc}, func(r shimRuntime) error { return b.shimMemory(ctx, r, len(parts), s) })
}

// shimMemory runs n containers and measures their shims.
func (b *shimBench) shimMemory(ctx context.Context, r shimRuntime, n int, s samples) (err error) {
	pids := make([]int, 0, n)
	for range n {
		c, cerr := b.newContainer(ctx, r)
		if cerr != nil {
			return cerr
		}
		defer func() { err = errors.Join(err, remove(ctx, c)) }()
		task, _, serr := start(ctx, c)
		if serr != nil {
			return serr
		}
		defer func() {
			_, derr := task.Delete(context.WithoutCancel(ctx), containerd.WithProcessKill)
			err = errors.Join(err, derr)
		}()
		shim, err := parent(int(task.Pid()))
		if err != nil {
			return err
		}
		pids = append(pids, shim)
	}
	for _, pid := range pids {
		kib, err := pss(pid)
		if err != nil {
			return err
		}
		s.add("memory", r.name, kib)
	}
	return nil
}

// pss is a process's proportional set size in KiB: of what it shares with others, it has
// its share.
func pss(pid int) (float64, error) {
	n, err := procNumber(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss")
	return float64(n), err
}

// parent is the process id of a process's parent.
func parent(pid int) (int, error) { return procNumber(fmt.Sprintf("/proc/%d/status", pid), "PPid") }

// procNumber reads the number after a key in a file of /proc.
func procNumber(file, key string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			if fields := strings.Fields(rest); len(fields) > 0 {
				return strconv.Atoi(fields[0])
			}
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, key)
}
