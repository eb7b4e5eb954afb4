package parity

import (
	"errors"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// mountCases are about types and options.
func mountCases() []Case {
	var cases []Case
	asks := []string{"read:/mnt", "write:/mnt", "read:/mnt/file", "write:/mnt/file"}
	for _, options := range [][]string{
		{"bind"},
		{"rbind"},
		{"bind", "ro"},
		{"rbind", "ro"},
		{"rbind", "rro"},
		{"bind", "ro", "rw"},
		{"bind", "nosuid", "nodev", "noexec"},
		{"bind", "suid", "dev", "exec"},
		{"bind", "noexec", "exec"},
		{"bind", "noatime"},
		{"bind", "nodiratime"},
		{"bind", "relatime"},
		{"bind", "strictatime"},
		{"bind", "norelatime"},
		{"bind", "sync"},
		{"bind", "dirsync"},
		{"bind", "nosymfollow"},
		{"bind", "defaults"},
		{"bind", "no-such-option"},
		{"bind", "mode=0700"},
		{"rbind", "rnosuid", "rnodev", "rnoexec"},
		{"rbind", "rnoatime"},
		{"ro"},
		{},
	} {
		name := "bind"
		for _, o := range options {
			name += " " + o
		}
		if len(options) == 0 {
			name += " without options"
		}
		cases = append(cases, Case{Name: "mount " + name, Ask: asks, Change: bind("/mnt", options...)})
	}
	lost := map[string]string{"read:/mnt": "runc 1.1 gives a tmpfs the mode of the directory below, whatever was asked for"}
	tmpfs := func(options ...string) func(*specs.Spec, *Place) {
		return mounts(specs.Mount{Destination: "/mnt", Type: "tmpfs", Source: "tmpfs", Options: options})
	}
	copied := func(options ...string) func(*specs.Spec, *Place) {
		return mounts(specs.Mount{Destination: "/copy", Type: "tmpfs", Source: "tmpfs", Options: options})
	}
	return append(
		cases,
		Case{Name: "mount tmpfs", Ask: asks, Change: tmpfs()},
		Case{Name: "mount tmpfs size and mode", Ask: asks, Known: lost, Change: tmpfs("size=1m", "mode=1700", "nosuid", "noexec")},
		Case{Name: "mount tmpfs owner", Ask: asks, Known: lost, Change: both(tmpfs("uid=1000", "gid=2000", "mode=750"), user(1000, 1000))},
		Case{Name: "mount tmpfs read-only", Ask: asks, Change: tmpfs("ro")},
		Case{Name: "mount tmpfs of a bad size", Change: tmpfs("size=nonsense")},
		Case{Name: "mount tmpfs copied up", Ask: []string{"read:/copy/one", "read:/copy/sub/two", "write:/copy"}, Change: copied("tmpcopyup")},
		Case{Name: "mount tmpfs copied up read-only", Ask: []string{"read:/copy/one", "write:/copy"}, Change: copied("tmpcopyup", "ro")},
		Case{Name: "mount tmpfs over the image", Ask: []string{"read:/copy/one"}, Change: copied()},
		Case{Name: "mount proc again", Ask: []string{"read:/mnt/1"}, Change: mounts(specs.Mount{Destination: "/mnt", Type: "proc", Source: "proc"})},
		Case{Name: "mount proc hidepid", Change: change(func(s *specs.Spec) { s.Mounts[0].Options = append(s.Mounts[0].Options, "hidepid=2") })},
		Case{Name: "mount unknown type", Change: mounts(specs.Mount{Destination: "/mnt", Type: "nosuchfs", Source: "none"})},
		Case{Name: "mount bind of what is missing", Change: mounts(specs.Mount{Destination: "/mnt", Type: "bind", Source: "/no/such/source", Options: []string{"bind"}})},
		Case{Name: "mount bind relative source", Change: mounts(specs.Mount{Destination: "/mnt", Type: "bind", Source: "config.json", Options: []string{"bind"}})},
		Case{Name: "mount bind by type none", Ask: asks, Change: func(s *specs.Spec, p *Place) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "none", Source: p.Dir + "/dir", Options: []string{"bind"}})
		}},
		Case{Name: "mount bind without type", Ask: asks, Change: func(s *specs.Spec, p *Place) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Source: p.Dir + "/dir", Options: []string{"bind"}})
		}},
		Case{Name: "mount twice at one place", Ask: asks, Change: both(tmpfs("size=1m"), bind("/mnt", "bind", "ro"))},
		Case{Name: "mount below a mount", Ask: []string{"read:/mnt/below", "write:/mnt/below"}, Change: both(tmpfs("size=1m"), bind("/mnt/below", "bind", "ro"))},
		Case{Name: "mount cgroup", Ask: []string{"read:/sys/fs/cgroup/memory", "write:/sys/fs/cgroup/memory"}, Change: mounts(specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}})},
		Case{Name: "mount cgroup in a cgroup namespace", Ask: []string{"read:/sys/fs/cgroup/memory"}, Change: both(ownNamespace(specs.CgroupNamespace), mounts(specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}}))},
		Case{Name: "mount overlay", Files: func(p *Place) error {
			return errors.Join(os.Mkdir(p.Dir+"/upper", 0o755), os.Mkdir(p.Dir+"/work", 0o755))
		}, Ask: []string{"read:/mnt/file", "write:/mnt"}, Change: func(s *specs.Spec, p *Place) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "overlay", Source: "overlay", Options: []string{
				"lowerdir=" + p.Dir + "/dir", "upperdir=" + p.Dir + "/upper", "workdir=" + p.Dir + "/work",
			}})
		}},
		Case{Name: "mounts none but proc", Known: map[string]string{"mountinfo": "runc masks with the image's /dev/null, which need not be a device"}, Change: change(func(s *specs.Spec) { s.Mounts = s.Mounts[:1] })},
		Case{Name: "mounts none", Change: change(func(s *specs.Spec) { s.Mounts = nil; s.Linux.MaskedPaths = nil; s.Linux.ReadonlyPaths = nil })},
		Case{Name: "mount dev of the host", Change: change(func(s *specs.Spec) {
			s.Mounts = append(without(without(without(without(s.Mounts, "/dev/pts"), "/dev/shm"), "/dev/mqueue"), "/dev"),
				specs.Mount{Destination: "/dev", Type: "bind", Source: "/dev", Options: []string{"rbind", "rprivate"}})
		})},
		Case{Name: "mount dev read-only", Ask: []string{"write:/dev"}, Change: change(func(s *specs.Spec) { s.Mounts[1].Options = append(s.Mounts[1].Options, "ro") })},
		Case{Name: "mount order reversed", Change: change(func(s *specs.Spec) { s.Mounts[1], s.Mounts[2] = s.Mounts[2], s.Mounts[1] })},
		Case{Name: "mount shm of the host", Change: func(s *specs.Spec, p *Place) {
			s.Mounts = append(without(s.Mounts, "/dev/shm"), specs.Mount{Destination: "/dev/shm", Type: "bind", Source: p.Dir + "/dir", Options: []string{"bind"}})
		}},
		Case{Name: "mount etc files", Ask: []string{"cat:/etc/hosts", "cat:/etc/resolv.conf"}, Change: both(bindFile("/etc/hosts", "rbind", "rprivate", "ro"), bindFile("/etc/resolv.conf", "rbind", "ro"))},
	)
}

func propagationCases() []Case {
	var cases []Case
	for _, p := range []string{
		"private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable",
	} {
		cases = append(
			cases,
			Case{Name: "propagation " + p, Change: bind("/mnt", "rbind", p)},
			Case{Name: "root propagation " + p, Change: both(bind("/mnt", "rbind"), change(func(s *specs.Spec) { s.Linux.RootfsPropagation = p }))},
		)
	}
	return append(
		cases,
		Case{Name: "root propagation unknown", Change: change(func(s *specs.Spec) { s.Linux.RootfsPropagation = "sideways" })},
		Case{Name: "propagation of a file system", Change: mounts(specs.Mount{Destination: "/mnt", Type: "tmpfs", Source: "tmpfs", Options: []string{"rshared"}})},
		Case{Name: "root read-only", Ask: []string{"write:/", "write:/tmp", "write:/run", "write:/dev", "write:/mnt"}, Change: both(bind("/mnt", "bind"), change(func(s *specs.Spec) { s.Root.Readonly = true }))},
		Case{Name: "root read-only and a missing destination", Change: both(bind("/not/there", "bind"), change(func(s *specs.Spec) { s.Root.Readonly = true }))},
		Case{Name: "root read-only and a missing directory", Change: change(func(s *specs.Spec) { s.Root.Readonly = true; s.Process.Cwd = "/not/there" })},
	)
}

// destinationCases are about where mounts go.
func destinationCases() []Case {
	var cases []Case
	for _, destination := range []string{
		"/new/deep/dir", "/abs", "/abs/x", "/rel/x", "/up/x", "/dangling", "/dangling/x", "/etc-link/x",
		"/out-link/x", "/real/inner/x", "/real/absinner", "/loop", "/loop/x", "relative/dir", "/desk/../mnt/./y",
		"/../../mnt", "/mnt/", "//mnt//z", "/real/file", "/real/file/x", "/", "",
	} {
		name := "destination " + destination
		switch destination {
		case "":
			name = "destination empty"
		case "/mnt/":
			name = "destination with a slash at the end"
		case "//mnt//z":
			name = "destination with double slashes"
		case "relative/dir":
			name = "destination not absolute"
		case "/desk/../mnt/./y":
			name = "destination with dots"
		case "/../../mnt":
			name = "destination above the root"
		case "/":
			name = "destination the root"
		}
		cases = append(cases, Case{Name: name, Ask: asksFor(destination), Change: bind(destination, "bind", "ro")})
	}
	for _, destination := range []string{"/new/deep/file", "/file-link", "/abs/file", "/dangling", "/mnt", "/etc-link/new"} {
		cases = append(cases, Case{Name: "destination of a file " + destination, Ask: asksFor(destination), Change: bindFile(destination, "bind", "ro")})
	}
	return cases
}

func asksFor(destination string) []string {
	asks := []string{"read:/etc/x", "read:/real/x", "read:/nowhere/to/be/found", "read:/etc/inner", "read:/mnt", "read:/relative/dir"}
	if filepath.IsAbs(destination) {
		asks = append(asks, "read:"+destination, "read:"+filepath.Clean(destination)+"/file")
	}
	return asks
}

// pathCases are about masked and read-only paths.
func pathCases() []Case {
	asks := []string{
		"read:/proc/kcore", "read:/proc/acpi", "read:/proc/keys", "read:/proc/timer_list", "read:/proc/scsi", "read:/sys/firmware",
		"read:/proc/interrupts", "write:/proc/sys/kernel/domainname", "write:/proc/sysrq-trigger", "read:/proc/sched_debug",
		"write:/proc/bus", "write:/proc/irq",
	}
	masked := func(paths ...string) func(*specs.Spec, *Place) {
		return change(func(s *specs.Spec) { s.Linux.MaskedPaths = paths })
	}
	readonly := func(paths ...string) func(*specs.Spec, *Place) {
		return change(func(s *specs.Spec) { s.Linux.ReadonlyPaths = paths })
	}
	return []Case{
		{Name: "paths default", Ask: asks},
		{Name: "paths open", Ask: asks, Change: both(masked(), readonly())},
		{Name: "paths masked", Ask: []string{"read:/real/file", "read:/desk", "write:/desk"}, Change: masked("/real/file", "/desk", "/no/such/path")},
		{Name: "paths masked through links", Ask: []string{"read:/real", "read:/real/file", "read:/abs", "read:/file-link", "read:/etc"}, Change: masked("/abs", "/file-link", "/out-link", "/dangling")},
		{Name: "paths masked relative", Change: masked("desk")},
		{Name: "paths masked above the root", Change: masked("/../desk")},
		{Name: "paths masked twice", Change: masked("/desk", "/desk", "/proc/kcore", "/proc/kcore")},
		{Name: "paths masked below a masked one", Change: masked("/copy", "/copy/sub")},
		{Name: "paths masked on a mount", Ask: []string{"read:/mnt/file"}, Change: both(bind("/mnt", "bind"), masked("/mnt/file"))},
		{Name: "paths read-only", Ask: []string{"write:/desk", "write:/real/file", "write:/mnt"}, Change: both(bind("/mnt", "bind"), readonly("/desk", "/real/file", "/mnt", "/no/such/path"))},
		{Name: "paths read-only through links", Ask: []string{"write:/real", "write:/etc"}, Change: readonly("/abs", "/out-link", "/dangling")},
		{Name: "paths read-only relative", Change: readonly("desk")},
		{Name: "paths read-only that are masked", Ask: []string{"read:/desk", "write:/desk"}, Change: both(masked("/desk"), readonly("/desk"))},
		{Name: "paths read-only keep flags", Change: both(mounts(specs.Mount{Destination: "/mnt", Type: "tmpfs", Source: "tmpfs", Options: []string{"noexec", "nosuid", "nodev", "noatime"}}), readonly("/mnt"))},
	}
}

// attackCases are images and specifications that try to get out.
func attackCases() []Case {
	words := map[string]string{"stderr": "neither runs; the words are the kernel's, for what is open in either"}
	cwd := func(dir string) func(*specs.Spec, *Place) {
		return process(func(p *specs.Process) { p.Cwd = dir })
	}
	seen := []string{"read:/proc/sys/kernel/ostype", "read:/proc/1/status", "read:/proc/x", "read:/sys/x"}
	var cases []Case
	for _, fd := range []string{"3", "4", "5", "6", "7", "8", "9", "10", "11", "12"} {
		cases = append(cases, Case{Name: "attack working directory descriptor " + fd, Change: cwd("/proc/self/fd/" + fd)})
	}
	return append(
		cases,
		Case{Name: "attack working directory above a descriptor", Change: cwd("/proc/self/fd/7/../../..")},
		Case{Name: "attack working directory by a link", Change: cwd("/fd-link")},
		Case{Name: "attack working directory of process 1", Change: cwd("/proc/1/cwd")},
		Case{Name: "attack working directory root of process 1", Change: cwd("/proc/1/root")},
		Case{Name: "attack program own executable", Known: words, Change: process(func(p *specs.Process) { p.Args = []string{"/proc/self/exe", "x"} })},
		Case{Name: "attack program a descriptor", Known: words, Change: process(func(p *specs.Process) { p.Args = []string{"/proc/self/fd/3"} })},
		Case{Name: "attack mount over proc", Ask: seen, Change: bind("/proc", "bind")},
		Case{Name: "attack mount below proc", Ask: seen, Change: bind("/proc/sys", "bind")},
		Case{Name: "attack mount new below proc", Ask: seen, Change: bind("/proc/x", "bind")},
		Case{Name: "attack mount by a link to proc", Ask: seen, Change: bind("/proc-link", "bind")},
		Case{Name: "attack mount below a link to proc", Ask: seen, Change: bind("/proc-link/sys", "bind")},
		Case{Name: "attack mount by a link to self", Ask: seen, Change: bind("/self-link/attr", "bind")},
		Case{Name: "attack mount file over an attribute", Ask: seen, Change: bindFile("/proc/self/attr/exec", "bind")},
		Case{Name: "attack mount file over loadavg", Ask: []string{"cat:/proc/loadavg"}, Change: bindFile("/proc/loadavg", "bind")},
		Case{Name: "attack mount tmpfs over proc", Ask: seen, Change: mounts(specs.Mount{Destination: "/proc", Type: "tmpfs", Source: "tmpfs"})},
		Case{Name: "attack mount below sys", Ask: seen, Change: bind("/sys/x", "bind")},
		Case{Name: "attack mount by a descriptor", Ask: seen, Change: bind("/proc/self/fd/7", "bind")},
		Case{Name: "attack mount proc at another place by a link", Ask: []string{"read:/real/1"}, Change: mounts(specs.Mount{Destination: "/abs", Type: "proc", Source: "proc"})},
		Case{Name: "attack mount cgroup by a link", Change: mounts(specs.Mount{Destination: "/abs", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}})},
		Case{Name: "attack mount sysfs by a link", Change: mounts(specs.Mount{Destination: "/etc-link/s", Type: "sysfs", Source: "sysfs", Options: []string{"ro"}})},
		Case{Name: "attack masked path by a link to self", Change: change(func(s *specs.Spec) { s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/self-link/attr") })},
		Case{Name: "attack root a link", Change: change(func(s *specs.Spec) { s.Root.Path = "rootfs/abs" })},
		Case{Name: "attack root missing", Change: change(func(s *specs.Spec) { s.Root.Path = "no/such/root" })},
	)
}
