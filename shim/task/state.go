package task

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/claim"
)

// State is what is needed to end a container whose shim has died. It is in the file
// flashcube.json of the bundle from before Create returns until after Delete.
type State struct {
	ID        string
	Namespace string
	Pid       int    // of the init, 0 while there is none
	StartTime uint64 // of the init, in clock ticks since boot
	// Cgroups are the container's, by subsystem. Until they are Joined there is nothing in
	// them but the init; they may even be somebody else's.
	Cgroups map[string]string
	Joined  bool
	// Annotations and Poststop are for the hooks that run in the end.
	Annotations map[string]string `json:",omitempty"`
	Poststop    []specs.Hook      `json:",omitempty"`
	// ExitedAt and ExitStatus are of the init, once it has ended.
	ExitedAt   time.Time
	ExitStatus uint32
	// NetworkOffer is the network namespace it was given, in NetworkDir; "" is none.
	NetworkDir   string `json:",omitempty"`
	NetworkOffer string `json:",omitempty"`
	// Fallback is whether another runtime has the container.
	Fallback bool `json:",omitempty"`
}

// Save writes the state to a bundle, whole or not at all.
func (s *State) Save(bundle string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	file := filepath.Join(bundle, claim.StateFile)
	unfinished := file + ".new"
	if err := os.WriteFile(unfinished, text, 0o600); err != nil {
		return fmt.Errorf("write the container's state: %w", err)
	}
	return os.Rename(unfinished, file)
}

// LoadState reads the state of a bundle; there is none with fs.ErrNotExist.
func LoadState(bundle string) (*State, error) {
	text, err := os.ReadFile(filepath.Join(bundle, claim.StateFile))
	if err != nil {
		return nil, err
	}
	var s State
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("read the container's state: %w", err)
	}
	return &s, nil
}

// remove takes the state out of a bundle.
func (s *State) remove(bundle string) error {
	err := os.Remove(filepath.Join(bundle, claim.StateFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// forget takes the state and the link to the part out of a bundle.
func forget(bundle string) error {
	var errs error
	for _, name := range []string{claim.StateFile, claim.Link} {
		if err := os.Remove(filepath.Join(bundle, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = errors.Join(errs, err)
		}
	}
	return errs
}

// StartTime tells processes of the same pid apart: field 22 of /proc/PID/stat, see
// proc_pid_stat(5).
func StartTime(pid int) (uint64, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may have anything in it.
	_, rest, ok := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat is cut short", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

func dup(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
