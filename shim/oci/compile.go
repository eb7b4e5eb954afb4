package oci

import (
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/plan"
)

// Container is what a spec asks for.
type Container struct {
	Spec *specs.Spec
	// Plan is for the init, but for the file descriptors.
	Plan plan.Container
	// Binds have the sources of those mounts of the plan that are bind mounts.
	Binds []Bind
	// New are the namespaces (CLONE_NEW*) it has of its own.
	New uintptr
	// Join are the others.
	Join []Namespace
	// CgroupMounts are positions in the plan of mounts of type cgroup, which depend on
	// the host.
	CgroupMounts []int
}

// Namespace is one to join; Path "" is the host's.
type Namespace struct {
	Type int // CLONE_NEW*
	Path string
}

// kinds of namespaces that a cube has unless the spec wants otherwise, in the order to
// join them in.
var kinds = []struct {
	name specs.LinuxNamespaceType
	flag int
}{
	{specs.IPCNamespace, unix.CLONE_NEWIPC},
	{specs.UTSNamespace, unix.CLONE_NEWUTS},
	{specs.NetworkNamespace, unix.CLONE_NEWNET},
	{specs.PIDNamespace, unix.CLONE_NEWPID},
}

// Compile decides what a container needs.
func Compile(id string, s *specs.Spec) (*Container, error) {
	if err := onlyLinux(s); err != nil {
		return nil, err
	}
	l := s.Linux
	propagation, err := rootPropagation(l.RootfsPropagation)
	if err != nil {
		return nil, err
	}
	c := &Container{Spec: s, Plan: plan.Container{
		ID:              id,
		RootReadonly:    s.Root.Readonly,
		RootPropagation: propagation,
		Hostname:        s.Hostname,
		Domainname:      s.Domainname,
		Sysctl:          l.Sysctl,
		MaskedPaths:     l.MaskedPaths,
		ReadonlyPaths:   l.ReadonlyPaths,
	}}
	if err := c.namespaces(l.Namespaces); err != nil {
		return nil, err
	}
	if err := c.sysctl(); err != nil {
		return nil, err
	}
	for _, paths := range [][]string{l.MaskedPaths, l.ReadonlyPaths} {
		if slices.ContainsFunc(paths, func(p string) bool { return !path.IsAbs(p) }) {
			return nil, unsupported("relative path to protect")
		}
	}
	if err := c.mounts(); err != nil {
		return nil, err
	}
	if err := c.devices(); err != nil {
		return nil, err
	}
	c.Plan.Process, err = Process(s.Process, l.Seccomp)
	return c, err
}

// onlyLinux refuses whole sections.
func onlyLinux(s *specs.Spec) error {
	switch {
	case s.Linux == nil:
		return unsupported("no linux section")
	case s.Process == nil:
		return unsupported("no process")
	case s.Root == nil || s.Root.Path == "":
		return unsupported("no root")
	case s.Solaris != nil || s.Windows != nil || s.VM != nil || s.ZOS != nil || s.FreeBSD != nil:
		return unsupported("section of another system")
	case s.Linux.IntelRdt != nil:
		return unsupported("intelRdt")
	case s.Linux.Personality != nil:
		return unsupported("personality")
	case s.Linux.MountLabel != "":
		return unsupported("mountLabel")
	case len(s.Linux.UIDMappings) > 0 || len(s.Linux.GIDMappings) > 0:
		return unsupported("user namespace")
	case len(s.Linux.TimeOffsets) > 0:
		return unsupported("time namespace")
	case len(s.Linux.NetDevices) > 0:
		return unsupported("netDevices")
	case s.Linux.MemoryPolicy != nil:
		return unsupported("memoryPolicy")
	}
	if h := s.Hooks; h != nil {
		//lint:ignore SA1019 deprecated, and in use
		prestart := h.Prestart
		switch {
		case len(prestart) > 0:
			return unsupported("hook prestart")
		case len(h.CreateContainer) > 0:
			return unsupported("hook createContainer")
		case len(h.StartContainer) > 0:
			return unsupported("hook startContainer")
		}
		for _, hook := range slices.Concat(h.CreateRuntime, h.Poststart, h.Poststop) {
			if !path.IsAbs(hook.Path) {
				return unsupported("relative hook path")
			}
		}
	}
	return nil
}

func (c *Container) namespaces(asked []specs.LinuxNamespace) error {
	byType := map[specs.LinuxNamespaceType]specs.LinuxNamespace{}
	for _, ns := range asked {
		if _, twice := byType[ns.Type]; twice {
			return unsupported("namespace twice")
		}
		if ns.Path != "" && !path.IsAbs(ns.Path) {
			return unsupported("relative namespace path")
		}
		byType[ns.Type] = ns
		switch ns.Type {
		case specs.IPCNamespace, specs.UTSNamespace, specs.NetworkNamespace, specs.PIDNamespace:
		case specs.MountNamespace:
			if ns.Path != "" {
				return unsupported("mount namespace by path")
			}
		case specs.CgroupNamespace:
			if ns.Path != "" {
				return unsupported("cgroup namespace by path")
			}
			c.Plan.CgroupNamespace = true
		case specs.UserNamespace:
			return unsupported("user namespace")
		case specs.TimeNamespace:
			return unsupported("time namespace")
		default:
			return unsupported("namespace of unknown type")
		}
	}
	if _, ok := byType[specs.MountNamespace]; !ok {
		return unsupported("no mount namespace")
	}
	c.New = unix.CLONE_NEWNS
	for _, kind := range kinds {
		ns, ok := byType[kind.name]
		if ok && ns.Path == "" {
			c.New |= uintptr(kind.flag)
		} else {
			c.Join = append(c.Join, Namespace{kind.flag, ns.Path})
		}
	}
	_, uts := byType[specs.UTSNamespace]
	if !uts && (c.Plan.Hostname != "" || c.Plan.Domainname != "") {
		return unsupported("hostname of the host")
	}
	return nil
}

// private reports whether a namespace isn't the host's, as far as the spec tells.
func (c *Container) private(flag int) bool {
	return !slices.Contains(c.Join, Namespace{flag, ""})
}

// sysctl lets pass what belongs to the container's namespaces; it is runc's list
// (libcontainer/configs/validate).
func (c *Container) sysctl() error {
	ipc := []string{
		"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
		"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
	}
	for key := range c.Plan.Sysctl {
		key = strings.ReplaceAll(key, "/", ".")
		switch {
		case slices.Contains(ipc, key) || strings.HasPrefix(key, "fs.mqueue."):
			if !c.private(unix.CLONE_NEWIPC) {
				return unsupported("sysctl of the host")
			}
		case strings.HasPrefix(key, "net."):
			// One by path could be the host's: runc will see.
			if c.New&unix.CLONE_NEWNET == 0 {
				return unsupported("sysctl of a joined network")
			}
		case key == "kernel.domainname":
			if !c.private(unix.CLONE_NEWUTS) {
				return unsupported("sysctl of the host")
			}
		default:
			return unsupported("sysctl of the host")
		}
	}
	for key := range c.Plan.Sysctl {
		// "a/b.c" keeps its dot; nothing above needs such keys.
		if strings.Contains(key, "/") || strings.Contains(key, "..") {
			return unsupported("sysctl with a slash")
		}
	}
	return nil
}

func rootPropagation(name string) (uintptr, error) {
	switch name {
	case "":
		return 0, nil
	case "private", "rprivate", "slave", "rslave":
		return propagations[name], nil
	}
	return 0, unsupported("rootfsPropagation")
}

// devices lists the nodes of /dev: those of the spec, then those every container has.
func (c *Container) devices() error {
	c.Plan.SetupDev = !slices.ContainsFunc(c.Plan.Mounts, func(m plan.Mount) bool {
		return path.Clean(m.Destination) == "/dev" && m.Type == "bind"
	})
	have := map[string]bool{}
	for _, d := range c.Spec.Linux.Devices {
		if !path.IsAbs(d.Path) {
			return unsupported("relative device path")
		}
		node, err := device(d)
		if err != nil {
			return err
		}
		c.Plan.Devices = append(c.Plan.Devices, node)
		have[path.Clean(d.Path)] = true
	}
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"random", 1, 8}, {"full", 1, 7}, {"tty", 5, 0}, {"zero", 1, 5}, {"urandom", 1, 9}} {
		if !have["/dev/"+d.name] {
			c.Plan.Devices = append(c.Plan.Devices, plan.Device{
				Path: "/dev/" + d.name, Mode: unix.S_IFCHR | 0o666, Rdev: unix.Mkdev(d.major, d.minor),
			})
		}
	}
	return nil
}

func device(d specs.LinuxDevice) (plan.Device, error) {
	node := plan.Device{Path: path.Clean(d.Path), Mode: 0o666}
	if d.FileMode != nil {
		mode := uint32(*d.FileMode)
		if mode&^uint32(0o7777) != 0 {
			return node, unsupported("device mode")
		}
		node.Mode = mode
	}
	switch d.Type {
	case "c", "u":
		node.Mode |= unix.S_IFCHR
	case "b":
		node.Mode |= unix.S_IFBLK
	case "p":
		node.Mode |= unix.S_IFIFO
	default:
		return node, unsupported("device type")
	}
	if d.Type != "p" {
		if d.Major < 0 || d.Minor < 0 || d.Major > 0xfff || d.Minor > 0xfffff {
			return node, unsupported("device number")
		}
		node.Rdev = unix.Mkdev(uint32(d.Major), uint32(d.Minor))
	}
	if d.UID != nil {
		node.UID = *d.UID
	}
	if d.GID != nil {
		node.GID = *d.GID
	}
	return node, nil
}
