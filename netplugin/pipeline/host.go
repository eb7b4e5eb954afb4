package pipeline

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

const cpuDir = "/sys/devices/system/cpu/"

// UsableCPUs are those that are online, that this process may run on (its cpuset), and
// that nobody set apart: to isolated ones and those without a tick the kernel moves no
// packets by RPS (net/core/net-sysfs.c, rps_cpumask_housekeeping).
func UsableCPUs() ([]int, error) {
	online, err := readList(cpuDir + "online")
	if err != nil {
		return nil, err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, fmt.Errorf("which CPUs this process has: %w", err)
	}
	allowed, err := parseAllowed(string(status))
	if err != nil {
		return nil, err
	}
	var apart []int
	for _, name := range []string{"isolated", "nohz_full"} {
		cpus, err := readList(cpuDir + name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // as the kernel was built
			return nil, err
		}
		apart = append(apart, cpus...)
	}
	return slices.DeleteFunc(online, func(c int) bool {
		return !slices.Contains(allowed, c) || slices.Contains(apart, c)
	}), nil
}

func readList(path string) ([]int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read a list of CPUs: %w", err)
	}
	cpus, err := ParseList(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cpus, nil
}

// parseAllowed takes /proc/PID/status.
func parseAllowed(status string) ([]int, error) {
	for line := range strings.Lines(status) {
		if list, ok := strings.CutPrefix(line, "Cpus_allowed_list:"); ok {
			return ParseList(list)
		}
	}
	return nil, fmt.Errorf("/proc/self/status doesn't say which CPUs this process has: %w", errdefs.ErrNotImplemented)
}

// ReadStat reads /proc/stat.
func ReadStat() (Stat, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return nil, fmt.Errorf("how busy CPUs are: %w", err)
	}
	return ParseStat(string(text))
}

// Supported says why this host's cores can't be measured or RPS can't be set: nil, or one
// sentence, errdefs.ErrPermissionDenied without root and ErrNotImplemented otherwise.
// Whether there are enough cores is for [Plan] to say. It changes nothing.
func Supported() error {
	if _, err := ReadStat(); err != nil {
		return fmt.Errorf("%w (%w); mount /proc", errdefs.ErrNotImplemented, err)
	}
	if _, err := UsableCPUs(); err != nil {
		return fmt.Errorf("%w (%w); mount /proc and /sys", errdefs.ErrNotImplemented, err)
	}
	return inSysfs(nil, func(s *sysfs) error {
		l, err := s.link("lo")
		if err != nil {
			return err
		}
		for _, queue := range l.queues {
			if _, err := s.mask(l, queue); err != nil {
				return fmt.Errorf("%w (%w); the kernel needs CONFIG_RPS", errdefs.ErrNotImplemented, err)
			}
		}
		return nil
	})
}
