package oci

import (
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/plan"
)

// Bind is the source of a bind mount.
type Bind struct {
	Mount     int // position in the plan
	Source    string
	Recursive bool
	// Set and Clear are MOUNT_ATTR_* of the mount itself, those of SetAll and ClearAll
	// of what is mounted below it too.
	Set, Clear       uint64
	SetAll, ClearAll uint64
}

// BindOf is the bind mount of a directory, without what is mounted below it, with
// flags of mount(2).
func BindOf(source string, flags uintptr) Bind {
	set, clear := bindAttributes(flags)
	return Bind{Source: source, Set: set, Clear: clear}
}

var propagations = map[string]uintptr{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC,
	"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
	"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// options are those of mount(8) that are flags; what is no flag, propagation or
// attribute goes to the filesystem as it is.
var options = map[string]struct {
	clear bool
	flag  uintptr
}{
	"defaults": {}, "bind": {flag: unix.MS_BIND}, "rbind": {flag: unix.MS_BIND | unix.MS_REC},
	"async": {true, unix.MS_SYNCHRONOUS}, "sync": {flag: unix.MS_SYNCHRONOUS},
	"atime": {true, unix.MS_NOATIME}, "noatime": {flag: unix.MS_NOATIME},
	"dev": {true, unix.MS_NODEV}, "nodev": {flag: unix.MS_NODEV},
	"diratime": {true, unix.MS_NODIRATIME}, "nodiratime": {flag: unix.MS_NODIRATIME},
	"dirsync": {flag: unix.MS_DIRSYNC},
	"exec":    {true, unix.MS_NOEXEC}, "noexec": {flag: unix.MS_NOEXEC},
	"iversion": {flag: unix.MS_I_VERSION}, "noiversion": {true, unix.MS_I_VERSION},
	"lazytime": {flag: unix.MS_LAZYTIME}, "nolazytime": {true, unix.MS_LAZYTIME},
	"loud": {true, unix.MS_SILENT}, "silent": {flag: unix.MS_SILENT},
	"mand": {flag: unix.MS_MANDLOCK}, "nomand": {true, unix.MS_MANDLOCK},
	"relatime": {flag: unix.MS_RELATIME}, "norelatime": {true, unix.MS_RELATIME},
	"strictatime": {flag: unix.MS_STRICTATIME}, "nostrictatime": {true, unix.MS_STRICTATIME},
	"ro": {flag: unix.MS_RDONLY}, "rw": {true, unix.MS_RDONLY},
	"suid": {true, unix.MS_NOSUID}, "nosuid": {flag: unix.MS_NOSUID},
}

// attributes are set on a mount and all below it, with mount_setattr(2).
var attributes = map[string]struct{ set, clear uint64 }{
	"rro": {set: unix.MOUNT_ATTR_RDONLY}, "rrw": {clear: unix.MOUNT_ATTR_RDONLY},
	"rnosuid": {set: unix.MOUNT_ATTR_NOSUID}, "rsuid": {clear: unix.MOUNT_ATTR_NOSUID},
	"rnodev": {set: unix.MOUNT_ATTR_NODEV}, "rdev": {clear: unix.MOUNT_ATTR_NODEV},
	"rnoexec": {set: unix.MOUNT_ATTR_NOEXEC}, "rexec": {clear: unix.MOUNT_ATTR_NOEXEC},
	"rnodiratime": {set: unix.MOUNT_ATTR_NODIRATIME}, "rdiratime": {clear: unix.MOUNT_ATTR_NODIRATIME},
	"rrelatime":      {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"rnorelatime":    {clear: unix.MOUNT_ATTR__ATIME},
	"rnoatime":       {set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME},
	"ratime":         {clear: unix.MOUNT_ATTR_NOATIME | unix.MOUNT_ATTR__ATIME},
	"rstrictatime":   {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME},
	"rnosymfollow":   {set: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"rsymfollow":     {clear: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"rnostrictatime": {clear: unix.MOUNT_ATTR__ATIME},
}

// notHere are options that mean something to other runtimes.
var notHere = []string{"remount", "idmap", "ridmap", "tmpcopyup", "copy-symlink", "dest-nofollow", "src-nofollow", "symfollow", "nosymfollow"}

type mountOptions struct {
	flags            uintptr
	propagation      []uintptr
	setAll, clearAll uint64
	data             []string
}

func parseOptions(list []string) (mountOptions, error) {
	var o mountOptions
	for _, name := range list {
		if slices.Contains(notHere, name) {
			return o, unsupported("mount option %s", name)
		}
		if f, ok := options[name]; ok {
			if f.clear {
				o.flags &^= f.flag
			} else {
				o.flags |= f.flag
			}
		} else if f, ok := propagations[name]; ok {
			o.propagation = append(o.propagation, f)
		} else if a, ok := attributes[name]; ok {
			o.setAll = o.setAll&^a.clear | a.set
			o.clearAll = o.clearAll&^a.set | a.clear
		} else {
			o.data = append(o.data, name)
		}
	}
	return o, nil
}

func (c *Container) mounts() error {
	for _, m := range c.Spec.Mounts {
		if len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0 {
			return unsupported("idmapped mount")
		}
		if !path.IsAbs(m.Destination) {
			return unsupported("relative mount destination")
		}
		if path.Clean(m.Destination) == "/" {
			return unsupported("mount over the root")
		}
		o, err := parseOptions(m.Options)
		if err != nil {
			return err
		}
		if err := c.mount(m, o); err != nil {
			return err
		}
	}
	if !slices.ContainsFunc(c.Plan.Mounts, func(m plan.Mount) bool { return path.Clean(m.Destination) == "/proc" }) {
		return unsupported("no procfs")
	}
	return nil
}

func (c *Container) mount(m specs.Mount, o mountOptions) error {
	p := plan.Mount{
		Destination: m.Destination, FD: plan.None, Type: m.Type, Source: m.Source,
		Flags: o.flags, Data: strings.Join(o.data, ","), Propagation: o.propagation,
	}
	if o.flags&unix.MS_BIND != 0 {
		if len(o.data) > 0 {
			return unsupported("option of a bind mount")
		}
		set, clear := bindAttributes(o.flags)
		c.Binds = append(c.Binds, Bind{
			Mount: len(c.Plan.Mounts), Source: m.Source, Recursive: o.flags&unix.MS_REC != 0,
			Set: set, Clear: clear, SetAll: o.setAll, ClearAll: o.clearAll,
		})
		p.Type, p.Flags, p.Data = "bind", 0, ""
		c.Plan.Mounts = append(c.Plan.Mounts, p)
		return nil
	}
	if o.setAll != 0 || o.clearAll != 0 {
		return unsupported("recursive attribute of a %s", m.Type)
	}
	switch m.Type {
	case "cgroup", "cgroup2":
		c.CgroupMounts = append(c.CgroupMounts, len(c.Plan.Mounts))
	case "proc", "sysfs", "devpts", "mqueue":
		if p.Flags&unix.MS_RDONLY != 0 && path.Clean(m.Destination) == "/dev" {
			return unsupported("read-only /dev")
		}
	case "tmpfs":
		// It is written to once more: /dev and what is mounted below.
		if p.Flags&unix.MS_RDONLY != 0 {
			p.Flags &^= unix.MS_RDONLY
			p.ReadonlyAfter = true
		}
	default:
		return unsupported("filesystem") // its source is the host's to resolve
	}
	c.Plan.Mounts = append(c.Plan.Mounts, p)
	return nil
}

// bindAttributes has the flags of a bind mount as mount_setattr(2) wants them. What
// isn't asked for stays as the source has it: never less confined.
func bindAttributes(flags uintptr) (set, clear uint64) {
	for _, a := range []struct {
		flag uintptr
		attr uint64
	}{
		{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY},
		{unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID},
		{unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
		{unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
	} {
		if flags&a.flag != 0 {
			set |= a.attr
		}
	}
	switch {
	case flags&unix.MS_NOATIME != 0:
		return set | unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR__ATIME
	case flags&unix.MS_STRICTATIME != 0:
		return set | unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME
	case flags&unix.MS_RELATIME != 0:
		return set | unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME
	}
	return set, 0
}
