package pool

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/claim"
)

// process is a process and no later one with the same id.
type process struct {
	pid   int
	start uint64 // clock ticks since boot, field 22 of /proc/PID/stat
}

// processes reads who a part consists of; its shim is the first. There is at least one
// if err is nil. Without a file it is fs.ErrNotExist.
func processes(part string) ([]process, error) {
	text, err := os.ReadFile(filepath.Join(part, claim.PidFile))
	if err != nil {
		return nil, err
	}
	var all []process
	for line := range strings.Lines(string(text)) {
		var p process
		if _, err := fmt.Sscanf(line, "%d %d", &p.pid, &p.start); err != nil || p.pid <= 1 {
			return nil, fmt.Errorf("%s has no process in line %q", part, line)
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s/%s is empty", part, claim.PidFile)
	}
	return all, nil
}

// identify returns the process that has a pid now; unix.ESRCH if there is none or it is
// a zombie.
func identify(pid int) (process, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return process{}, unix.ESRCH
	}
	if err != nil {
		return process{}, err
	}
	// The name, in parentheses, may have anything in it.
	_, rest, _ := bytes.Cut(text[bytes.LastIndexByte(text, ')'):], []byte(" "))
	fields := bytes.Fields(rest) // from field 3 on
	if len(fields) < 20 {
		return process{}, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	if fields[0][0] == 'Z' || fields[0][0] == 'X' {
		return process{}, unix.ESRCH
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return process{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return process{pid, start}, nil
}

// alive tells whether p still runs.
func (p process) alive() bool {
	now, err := identify(p.pid)
	return err == nil && now == p
}

// kill sends a signal to p and to no process that has its id after it.
func (p process) kill(signal unix.Signal) error {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", p.pid, err)
	}
	defer unix.Close(fd)
	if !p.alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.pid, err)
	}
	return nil
}

// children are the processes that p started and has not waited for.
func (p process) children() []process {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.pid))
	var all []process
	for _, name := range files {
		text, _ := os.ReadFile(name)
		for _, word := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil {
				if c, err := identify(pid); err == nil {
					all = append(all, c)
				}
			}
		}
	}
	return all
}

// pss is the proportional set size in bytes: memory that p shares counts in part.
func (p process) pss() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/smaps_rollup has no Pss", p.pid)
}

// memory is what a part's shim and its children take, as far as it is known.
func memory(shim process) int64 {
	total, err := shim.pss()
	if err != nil {
		return 0
	}
	for _, c := range shim.children() {
		n, _ := c.pss()
		total += n
	}
	return total
}

// executable identifies a program's file: another version is another file.
type executable struct {
	dev, ino uint64
	mtime    unix.Timespec
}

// executableAt follows links, also those in /proc to a file that was deleted.
func executableAt(path string) (executable, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return executable{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return executable{uint64(st.Dev), st.Ino, st.Mtim}, nil
}
