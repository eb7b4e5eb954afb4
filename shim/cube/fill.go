package cube

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/oci"
	"github.com/peregrine-dev/peregrine/shim/plan"
)

// Files are what goes to the init beside a plan, by position.
type Files struct{ list []*os.File }

// Add takes f over and returns its position.
func (f *Files) Add(file *os.File) int {
	f.list = append(f.list, file)
	return len(f.list) - 1
}

// List are the files in order.
func (f *Files) List() []*os.File { return f.list }

// Close closes them all.
func (f *Files) Close() {
	for _, file := range f.list {
		file.Close()
	}
	f.list = nil
}

// Fill opens everything of the host that a container's plan names, but for its root and
// streams and namespaces, and puts the positions into the plan. Relative sources are the
// bundle's.
func (f *Files) Fill(c *oci.Container, bundle string) error {
	for _, b := range c.Binds {
		if err := f.Bind(&c.Plan.Mounts[b.Mount], b, bundle, c.Plan.RootPropagation); err != nil {
			return fmt.Errorf("bind %s at %s: %w", b.Source, c.Plan.Mounts[b.Mount].Destination, err)
		}
	}
	return nil
}

// Joins opens the namespaces that a container's init is to join: of those made ahead, by
// type, those it has of its own, and those its spec names.
func (f *Files) Joins(c *oci.Container, ahead map[int]*os.File) ([]plan.Join, error) {
	var joins []plan.Join
	for _, t := range types {
		ns := ahead[t.flag]
		if ns == nil || c.New&uintptr(t.flag) == 0 {
			continue
		}
		file, err := dup(ns)
		if err != nil {
			return nil, err
		}
		joins = append(joins, plan.Join{FD: f.Add(file), Type: t.flag})
	}
	for _, ns := range c.Join {
		if ns.Type == unix.CLONE_NEWPID {
			continue // the init begins there
		}
		path := ns.Path
		if path == "" {
			path = "/proc/self/ns/" + nsNames[ns.Type]
		}
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("namespace to join: %w", err)
		}
		joins = append(joins, plan.Join{FD: f.Add(file), Type: ns.Type})
	}
	return joins, nil
}

var nsNames = map[int]string{unix.CLONE_NEWIPC: "ipc", unix.CLONE_NEWUTS: "uts", unix.CLONE_NEWNET: "net"}

// Bind opens the source of a bind mount and puts its position into the mount.
func (f *Files) Bind(m *plan.Mount, b oci.Bind, bundle string, rootPropagation uintptr) error {
	source := b.Source
	if !filepath.IsAbs(source) {
		source = filepath.Join(bundle, source)
	}
	tree, err := OpenTree(source, b.Recursive)
	if err != nil {
		return err
	}
	m.FD = f.Add(tree)
	fd := int(tree.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	m.File = st.Mode&unix.S_IFMT != unix.S_IFDIR
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	m.Proc = fs.Type == unix.PROC_SUPER_MAGIC
	// What is mounted in the container doesn't reach the host; what is mounted in the host
	// reaches the container unless its spec says otherwise.
	all := unix.MountAttr{Attr_set: b.SetAll, Attr_clr: b.ClearAll}
	all.Propagation = unix.MS_SLAVE
	if rootPropagation&unix.MS_PRIVATE != 0 {
		all.Propagation = unix.MS_PRIVATE
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &all); err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	if b.Set != 0 || b.Clear != 0 {
		own := unix.MountAttr{Attr_set: b.Set, Attr_clr: b.Clear}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &own); err != nil {
			return fmt.Errorf("mount_setattr: %w", err)
		}
	}
	return nil
}

// Streams puts a process's streams into its plan.
func (f *Files) Streams(p *plan.Process, stdio [3]*os.File) error {
	for i, file := range stdio {
		if file == nil {
			continue
		}
		// A copy: the list closes its own.
		copied, err := dup(file)
		if err != nil {
			return fmt.Errorf("stdio: %w", err)
		}
		p.Stdio[i] = f.Add(copied)
	}
	return nil
}

func dup(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
