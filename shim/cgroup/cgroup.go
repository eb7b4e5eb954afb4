package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"
)

// manager is what this package uses of the field's cgroup managers.
type manager interface {
	Set(*cgroups.Resources) error
	Freeze(cgroups.FreezerState) error
	GetFreezerState() (cgroups.FreezerState, error)
}

// Cgroup is the cgroup of one container: one directory in each v1 hierarchy, or
// one directory on v2. Its methods may be called at the same time, save
// CreateUnified, CreateOthers and Delete, which must be called alone.
type Cgroup struct {
	host *Host
	// paths is the directory in each hierarchy, by subsystem; "" is the v2 one.
	paths map[string]string
	// dirs are the directories of paths, each once, in the order of joining.
	dirs []member

	// mu guards what follows.
	mu sync.Mutex
	// config is shared with manager, which replaces its Resources.
	config    *cgroups.Cgroup
	resources *cgroups.Resources
	manager   manager
	stats     cgroup1.Cgroup
	init      int
}

// member is the directory of a container in one hierarchy.
type member struct {
	subsystem, dir string
}

// New returns the cgroup that config ([Config]) describes, and makes nothing on
// the host. The cgroup owns config from then on. An error wraps
// ErrInvalidArgument where the host cannot honour config: unified settings on
// v1.
func (h *Host) New(config *cgroups.Cgroup) (*Cgroup, error) {
	return h.cgroup(config, h.paths(config.Path))
}

// Load returns the cgroup whose [Cgroup.Paths] these are. It does not look
// whether the directories still exist. Its limits count as unknown: Update
// changes what it is given and leaves the rest. An error wraps
// ErrInvalidArgument when a path is not below one of the host's hierarchies, so
// that a damaged state file cannot point Delete or Kill elsewhere.
func (h *Host) Load(paths map[string]string) (*Cgroup, error) {
	if len(paths) == 0 {
		return nil, fmt.Errorf("no cgroup paths were recorded: %w", errdefs.ErrInvalidArgument)
	}
	for s, dir := range paths {
		v, ok := h.mounts[s]
		if !ok || filepath.Clean(dir) != dir || !strings.HasPrefix(dir, v.Mountpoint+"/") {
			return nil, fmt.Errorf("recorded path %q of hierarchy %q is not below its mount point; remove the cgroup by hand: %w", dir, s, errdefs.ErrInvalidArgument)
		}
	}
	return h.cgroup(&cgroups.Cgroup{Resources: &cgroups.Resources{SkipDevices: true}}, maps.Clone(paths))
}

func (h *Host) cgroup(config *cgroups.Cgroup, paths map[string]string) (*Cgroup, error) {
	c := &Cgroup{host: h, config: config, resources: config.Resources, paths: paths}
	var err error
	if h.unified {
		c.dirs = []member{{"", paths[""]}}
		c.manager, err = fs2.NewManager(config, paths[""])
	} else {
		for _, s := range subsystems() {
			if dir, ok := paths[s]; ok && !slices.ContainsFunc(c.dirs, func(m member) bool { return m.dir == dir }) {
				c.dirs = append(c.dirs, member{s, dir})
			}
		}
		c.manager, err = fs.NewManager(config, paths)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use these resources on this host: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return c, nil
}

// Paths are the directories of the cgroup by subsystem, as runc's state.json has
// them: on v1 by controller, on v2 one entry with an empty key, which on a hybrid
// host is beside the controllers. The map is the caller's.
func (c *Cgroup) Paths() map[string]string { return maps.Clone(c.paths) }

// Add moves the process with every thread of it into the cgroup, in every
// hierarchy. Limits do not hinder it, as they do a birth. On v2, where the
// container's own init may have moved itself into a sub-cgroup and so made the
// cgroup refuse processes, it joins init's ([Cgroup.SetInit]), as runc does. An
// error wraps ErrNotFound when the process or the cgroup is gone; the process may
// then be in some hierarchies, and the caller must kill it.
//
// The first process in a while waits for 5 to 20 ms. Writing cgroup.procs takes a
// lock for writing (cgroup_threadgroup_rwsem) whose readers, all forks, take it
// without an atomic operation. The first writer must therefore wait for an RCU
// grace period, and writers soon after need not (kernel/rcu/sync.c). On hosts
// whose hierarchies are mounted with favordynmods there is no wait.
func (c *Cgroup) Add(pid int) error {
	for _, m := range c.dirs {
		err := join(m.dir, pid)
		if err != nil && c.host.unified && !errors.Is(err, unix.ESRCH) {
			if dir, ok := c.initDir(); ok && dir != m.dir {
				err = join(dir, pid)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// initDir is the v2 directory the process given to SetInit is in now.
func (c *Cgroup) initDir() (string, bool) {
	c.mu.Lock()
	pid := c.init
	c.mu.Unlock()
	if pid <= 0 {
		return "", false
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", false
	}
	dir := filepath.Join(c.host.mounts[""].Mountpoint, parseProcCgroup(data)[""])
	// Only ever below the container's own.
	return dir, strings.HasPrefix(dir, c.paths[""]+"/")
}

// Dir opens the directory of the cgroup in the v2 hierarchy, for clone3 with
// CLONE_INTO_CGROUP. The caller closes it. On v1 it wraps ErrNotImplemented; on
// a hybrid host a process cloned into it is in the v2 hierarchy only and still
// needs Tasks or Add.
func (c *Cgroup) Dir() (*os.File, error) {
	dir, ok := c.paths[""]
	if !ok {
		return nil, fmt.Errorf("this host has no v2 hierarchy; use Add: %w", errdefs.ErrNotImplemented)
	}
	f, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, classify(fmt.Errorf("cannot open cgroup %s: %w", dir, err))
	}
	return f, nil
}

// joinTries bounds how often a join is tried again while the kernel refuses a
// task it is still setting up (EINVAL, kernel/sched/core.c
// cpu_cgroup_can_attach).
const joinTries = 5

// join writes pid to cgroup.procs of dir, which moves all threads of the
// process. (tasks would move one thread, and the Go programs that wait here to
// become containers have several.)
func join(dir string, pid int) error {
	data := strconv.Itoa(pid)
	delay := time.Millisecond
	for i := 1; ; i++ {
		err := write(dir, "cgroup.procs", data)
		if err == nil {
			return nil
		}
		if i == joinTries || !errors.Is(err, unix.EINVAL) {
			return classify(fmt.Errorf("process %d cannot join its cgroup: %w", pid, err))
		}
		time.Sleep(delay)
		delay *= 4
	}
}

// write writes data to one cgroup file with three system calls: os.OpenFile
// would make a fourth to offer the file to the poller.
func write(dir, file, data string) error {
	fd, err := open(dir, file, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return writeFd(fd, dir, file, data)
}

func writeFd(fd int, dir, file, data string) error {
	for {
		_, err := unix.Write(fd, []byte(data))
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EINTR):
			return &os.PathError{Op: "write " + strconv.Quote(data) + " to", Path: dir + "/" + file, Err: err}
		}
	}
}

func open(dir, file string, flags int) (int, error) {
	path := dir + "/" + file
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		switch {
		case err == nil:
			return fd, nil
		case !errors.Is(err, unix.EINTR):
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// read returns the contents of one cgroup file.
func read(dir, file string) (string, error) {
	fd, err := open(dir, file, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()
	var out []byte
	// One page is what the kernel hands out at a time.
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return "", &os.PathError{Op: "read", Path: dir + "/" + file, Err: err}
		case n == 0:
			return string(out), nil
		default:
			out = append(out, buf[:n]...)
		}
	}
}
