package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
)

// Enter moves a process into the cgroup of a path in every hierarchy that has it, as
// the stock shim does with itself where its option ShimCgroup asks for it. An error
// wraps ErrNotFound where no hierarchy has the cgroup.
func (h *Host) Enter(path string, pid int) error {
	var roots []string
	if h.unified {
		roots = []string{root}
	}
	for _, hierarchy := range h.mounts {
		if !slices.Contains(roots, hierarchy.Mountpoint) {
			roots = append(roots, hierarchy.Mountpoint)
		}
	}
	entered := false
	for _, r := range roots {
		file := filepath.Join(r, filepath.Join("/", path), "cgroup.procs")
		err := os.WriteFile(file, []byte(strconv.Itoa(pid)), 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("move process %d into a cgroup: %w", pid, err)
		}
		entered = true
	}
	if !entered {
		return fmt.Errorf("no hierarchy has a cgroup %s; make it first: %w", path, errdefs.ErrNotFound)
	}
	return nil
}
