package fastpath

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// favour sets the nice values of the threads that serve queues. They compete with programs,
// where the kernel's own path competes with none.
func favour(nice map[*ebpf.Map]int) error {
	prefixes := map[string]int{}
	for m, value := range nice {
		info, err := m.Info()
		if err != nil {
			return err
		}
		id, _ := info.ID()
		prefixes[fmt.Sprintf("/map:%d", id)] = value
	}
	files, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return err
	}
	found := false
	for _, file := range files {
		name, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		queue, ok := strings.CutPrefix(strings.TrimSpace(string(name)), "cpumap/")
		if !ok {
			continue
		}
		for suffix, value := range prefixes {
			if !strings.HasSuffix(queue, suffix) {
				continue
			}
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				return err
			}
			if err := unix.Setpriority(unix.PRIO_PROCESS, pid, value); err != nil {
				return fmt.Errorf("set the priority of a queue's thread: %w", err)
			}
			found = true
		}
	}
	if !found {
		return fmt.Errorf("the threads of the queues can't be seen: run in the host's PID namespace, or packets that aren't of class high wait for programs: %w", errdefs.ErrNotFound)
	}
	return nil
}
