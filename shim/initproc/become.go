package initproc

import (
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/plan"
)

// become turns this process and a cube into the container of a plan, up to the program.
// console is the master of its terminal, or None.
func become(p *plan.Container, fds []int) (_ *program, console int, err error) {
	if p.CgroupNamespace {
		if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
			return nil, None, fmt.Errorf("make a cgroup namespace: %w", err)
		}
	}
	if p.NewKeyring {
		if err := joinKeyring("_ses." + p.ID); err != nil {
			return nil, None, err
		}
	}
	root, err := at(fds, p.Root)
	if err != nil {
		return nil, None, err
	}
	if err := unix.MoveMount(root, "", unix.AT_FDCWD, baseRoot, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, None, fmt.Errorf("mount the root: %w", err)
	}
	if err := mountAll(root, p.Mounts, fds); err != nil {
		return nil, None, err
	}
	if p.SetupDev {
		if err := fillDev(root, p.Devices); err != nil {
			return nil, None, err
		}
	}
	if err := confine(p); err != nil {
		return nil, None, err
	}
	for _, path := range p.ReadonlyPaths {
		if err := protect(root, path); err != nil {
			return nil, None, fmt.Errorf("make %s read-only: %w", path, err)
		}
	}
	for _, path := range p.MaskedPaths {
		if err := mask(root, path); err != nil {
			return nil, None, fmt.Errorf("mask %s: %w", path, err)
		}
	}
	console = None
	if p.Process.Terminal {
		if console, err = openConsole(root, &p.Process, true); err != nil {
			return nil, None, fmt.Errorf("open the terminal: %w", err)
		}
	} else if err := takeStdio(&p.Process, fds); err != nil {
		return nil, None, err
	}
	// Everything that needs the cube's own procfs comes before it goes.
	if err := labels(&p.Process); err != nil {
		return nil, None, err
	}
	for i := range p.Mounts {
		if p.Mounts[i].ReadonlyAfter {
			if err := protectMount(root, p.Mounts[i].Destination); err != nil {
				return nil, None, err
			}
		}
	}
	if err := unix.Fchdir(root); err != nil {
		return nil, None, err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return nil, None, fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return nil, None, fmt.Errorf("let go of the cube's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return nil, None, err
	}
	// No working directory is to be found among them.
	for _, fd := range fds {
		unix.Close(fd)
	}
	// A path in the container by now: no link leads out of it.
	if err := os.MkdirAll(p.Process.Cwd, 0o755); err != nil {
		return nil, None, fmt.Errorf("make the working directory: %w", err)
	}
	if p.RootReadonly {
		if err := protectMount(unix.AT_FDCWD, "/"); err != nil {
			return nil, None, err
		}
	}
	if p.RootPropagation != 0 {
		if err := unix.Mount("", "/", "", p.RootPropagation, ""); err != nil {
			return nil, None, fmt.Errorf("propagation of the root: %w", err)
		}
	}
	if p.SetupDev && !p.Process.Terminal {
		if err := openNull(); err != nil {
			return nil, None, err
		}
	}
	prog, err := assume(&p.Process)
	return prog, console, err
}

// confine sets what belongs to the namespaces.
func confine(p *plan.Container) error {
	if p.Hostname != "" {
		if err := unix.Sethostname([]byte(p.Hostname)); err != nil {
			return fmt.Errorf("set the hostname: %w", err)
		}
	}
	if p.Domainname != "" {
		if err := unix.Setdomainname([]byte(p.Domainname)); err != nil {
			return fmt.Errorf("set the domain name: %w", err)
		}
	}
	keys := make([]string, 0, len(p.Sysctl))
	for key := range p.Sysctl {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		if strings.Contains(key, "..") {
			return fmt.Errorf("sysctl %s: %w", key, unix.EINVAL)
		}
		if err := writeProc("sys/"+strings.ReplaceAll(key, ".", "/"), p.Sysctl[key]); err != nil {
			return fmt.Errorf("sysctl %s: %w", key, err)
		}
	}
	if adj := p.Process.OOMScoreAdj; adj != nil {
		if err := writeProc("self/oom_score_adj", fmt.Sprint(*adj)); err != nil {
			return fmt.Errorf("oomScoreAdj: %w", err)
		}
	}
	return nil
}

func protectMount(root int, path string) error {
	fd, err := lookup(root, path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := readonly(fd); err != nil {
		return fmt.Errorf("make %s read-only: %w", path, err)
	}
	return nil
}

// labels asks for the AppArmor profile that execve(2) shall give.
func labels(p *plan.Process) error {
	if p.AppArmor != "" {
		text := "exec " + p.AppArmor
		err := writeProc("thread-self/attr/apparmor/exec", text)
		if errors.Is(err, unix.ENOENT) { // before Linux 5.8
			err = writeProc("thread-self/attr/exec", text)
		}
		if err != nil {
			return fmt.Errorf("apply AppArmor profile %s: %w", p.AppArmor, err)
		}
	}
	return nil
}

// joinKeyring joins the session keyring of a name and lets its owner search it.
func joinKeyring(name string) error {
	id, err := unix.KeyctlJoinSessionKeyring(name)
	if err == unix.ENOSYS {
		return nil
	}
	if err != nil {
		return fmt.Errorf("join session keyring %s: %w", name, err)
	}
	desc, err := unix.KeyctlString(unix.KEYCTL_DESCRIBE, id)
	if err != nil {
		return fmt.Errorf("describe session keyring: %w", err)
	}
	// type;uid;gid;permissions;description
	fields := strings.Split(desc, ";")
	var perm uint32
	if len(fields) < 5 {
		return fmt.Errorf("describe session keyring: %q", desc)
	}
	if _, err := fmt.Sscanf(fields[3], "%x", &perm); err != nil {
		return fmt.Errorf("describe session keyring: %q", desc)
	}
	const ownerSearch = 0x80000
	if err := unix.KeyctlSetperm(id, perm|ownerSearch); err != nil {
		return fmt.Errorf("set permissions of the session keyring: %w", err)
	}
	return nil
}

// takeStdio puts the process's streams at 0, 1 and 2.
func takeStdio(p *plan.Process, fds []int) error {
	for i, position := range p.Stdio {
		fd, err := at(fds, position)
		if err != nil {
			return fmt.Errorf("stdio: %w", err)
		}
		if err := unix.Dup3(fd, i, 0); err != nil {
			return fmt.Errorf("stdio: %w", err)
		}
	}
	return nil
}

// openConsole makes a terminal of the container's devpts the process's, and returns its
// master. The init's also becomes /dev/console.
func openConsole(root int, p *plan.Process, console bool) (int, error) {
	dir, err := lookup(root, "/dev/pts")
	if err != nil {
		return None, &os.PathError{Op: "open", Path: "/dev/pts", Err: err}
	}
	defer unix.Close(dir)
	master, err := unix.Openat(dir, "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return None, &os.PathError{Op: "open", Path: "/dev/pts/ptmx", Err: err}
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(master, &fs); err != nil {
		return None, err
	}
	if fs.Type != unix.DEVPTS_SUPER_MAGIC {
		return None, fmt.Errorf("/dev/pts is no devpts: %w", unix.EINVAL)
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return None, fmt.Errorf("unlock: %w", err)
	}
	// The slave by its master: no path for anybody to redirect.
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return None, fmt.Errorf("open the slave: %w", errno)
	}
	fd := int(slave)
	defer unix.Close(fd)
	if p.Width != 0 || p.Height != 0 {
		size := unix.Winsize{Col: p.Width, Row: p.Height}
		if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &size); err != nil {
			return None, fmt.Errorf("set the size: %w", err)
		}
	}
	for i := range 3 {
		if err := unix.Dup3(fd, i, 0); err != nil {
			return None, err
		}
	}
	if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil {
		return None, fmt.Errorf("make it the controlling terminal: %w", err)
	}
	if console {
		return master, mountConsole(root, fd)
	}
	return master, nil
}

// mountConsole makes a terminal /dev/console.
func mountConsole(root, slave int) error {
	dest, err := provide(root, "/dev/console", true)
	if err != nil {
		return fmt.Errorf("/dev/console: %w", err)
	}
	defer unix.Close(dest)
	if err := checkProc(dest, false); err != nil {
		return fmt.Errorf("/dev/console: %w", err)
	}
	tree, err := unix.OpenTree(slave, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("/dev/console: %w", err)
	}
	defer unix.Close(tree)
	return move(tree, dest)
}
