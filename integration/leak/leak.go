// Package leak compares what the kernel holds before and after: mounts, loop devices,
// network namespaces, cgroups, processes and BPF objects.
package leak

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/moby/sys/mountinfo"
)

// State is everything that could leak, each with words that find it again.
type State map[string]struct{}

// Look reads the state of the kernel now. Processes are those that this process can
// see; in a sandbox, they are all its own.
func Look() (State, error) {
	s := State{}
	for _, look := range []func(State) error{mounts, loops, netns, cgroups, processes, bpfObjects} {
		if err := look(s); err != nil {
			return nil, fmt.Errorf("look for leaks: %w", err)
		}
	}
	return s, nil
}

// Since lists, sorted, what is there now and was not before.
func (s State) Since(before State) []string {
	var more []string
	for what := range s {
		if _, ok := before[what]; !ok {
			more = append(more, what)
		}
	}
	slices.Sort(more)
	return more
}

func (s State) add(format string, args ...any) { s[fmt.Sprintf(format, args...)] = struct{}{} }

func mounts(s State) error {
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return err
	}
	for _, m := range infos {
		s.add("mount %s at %s (%s)", m.Source, m.Mountpoint, m.FSType)
	}
	return nil
}

func loops(s State) error {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return err
	}
	for _, file := range files {
		if backing, err := os.ReadFile(file); err == nil {
			s.add("loop device %s of %s", strings.Split(file, "/")[3], strings.TrimSpace(string(backing)))
		}
	}
	return nil
}

// netns finds network namespaces that processes live in or that are pinned in /run/netns.
func netns(s State) error {
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return err
	}
	for _, link := range links {
		if name, err := os.Readlink(link); err == nil {
			s.add("network namespace %s", name)
		}
	}
	pins, err := os.ReadDir("/run/netns")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, pin := range pins {
		s.add("network namespace /run/netns/%s", pin.Name())
	}
	return nil
}

func cgroups(s State) error {
	const root = "/sys/fs/cgroup"
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return err
		}
		// Those of the harness's containers: the host makes and removes its own.
		if d.IsDir() && strings.Contains(path, "/peregrine-") {
			s.add("cgroup %s", path)
		}
		return nil
	})
}

func processes(s State) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// Kernel threads have no command line; nobody leaks them.
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || len(line) == 0 {
			continue
		}
		s.add("process %d: %s", pid, strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " ")))
	}
	return nil
}

func bpfObjects(s State) error {
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if err != nil {
			return err
		}
		name := ""
		if p, err := ebpf.NewProgramFromID(next); err == nil {
			if info, err := p.Info(); err == nil {
				name = info.Name
			}
			p.Close()
		}
		s.add("BPF program %d %s", next, name)
		id = next
	}
	for id := ebpf.MapID(0); ; {
		next, err := ebpf.MapGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name := ""
		if m, err := ebpf.NewMapFromID(next); err == nil {
			if info, err := m.Info(); err == nil {
				name = info.Name
			}
			m.Close()
		}
		s.add("BPF map %d %s", next, name)
		id = next
	}
}

// Settle is Since for now. It gives the kernel a moment: an unmounted file system's loop device, a killed
// process and its cgroup go a little later than the call that ended them returns.
func Settle(before State) ([]string, error) {
	deadline := time.Now().Add(time.Minute)
	for {
		now, err := Look()
		if err != nil {
			return nil, err
		}
		more := now.Since(before)
		if len(more) == 0 || time.Now().After(deadline) {
			return more, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
}
