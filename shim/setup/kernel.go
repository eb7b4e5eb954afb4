package setup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/internal/check"
	"github.com/peregrine-dev/peregrine/shim/cgroup"
	"github.com/peregrine-dev/peregrine/shim/seccomp"
)

// probe tries one thing that the runtime needs.
type probe struct {
	name  string
	works string
	// without says what follows where it doesn't work, and otherwise is what that makes
	// of the runtime.
	without   string
	otherwise check.Status
	try       func() error
}

// allFallBack is what most of what is missing leads to.
const allFallBack = "every container runs by the fall-back"

func kernelProbes() []probe {
	return []probe{
		{
			"openat2", "paths are resolved inside a container's root", allFallBack,
			check.Missing, openat2,
		},
		{
			"mounts without a place", "open_tree, mount_setattr, fsmount and move_mount work", allFallBack,
			check.Missing, func() error { return aside(detachedMounts) },
		},
		{
			"overlay by fsopen", "lower directories are handed over one by one",
			"a root is mounted by mount(2) in a mount namespace of its own, which takes longer",
			check.Limited, func() error { return aside(overlay) },
		},
		{
			"namespaces", "mount, pid, ipc, uts, net and cgroup namespaces can be made", allFallBack,
			check.Missing, func() error { return aside(namespaces) },
		},
		{
			"close_range", "nothing of the host leaks into a container", allFallBack,
			check.Missing, closeRange,
		},
		{
			"pidfd and setns", "exec joins a container by its process",
			"exec fails in containers that run natively; have them fall back",
			check.Missing, func() error { return aside(joinByPidfd) },
		},
		{
			"sealed memory", "the init of containers is executed from memory that nobody can write to", allFallBack,
			check.Missing, sealedProgram,
		},
		{
			"seccomp", "filters are compiled here", "containers with a seccomp profile run by the fall-back",
			check.Limited, filters,
		},
	}
}

// Kernel probes what the runtime needs of the kernel. It asks for what is used and
// compares no versions. It leaves nothing behind. Without root it can't tell.
func Kernel() []check.Result {
	if os.Geteuid() != 0 {
		return []check.Result{result("kernel", check.Limited, "not probed: that needs root")}
	}
	var results []check.Result
	for _, p := range kernelProbes() {
		results = append(results, p.run())
	}
	return append(results, cgroups(), appArmor("/sys/module/apparmor/parameters/enabled"))
}

func (p probe) run() check.Result {
	if err := p.try(); err != nil {
		return result(p.name, p.otherwise, fmt.Sprintf("%v: %s", err, p.without))
	}
	return result(p.name, check.OK, p.works)
}

func openat2() error {
	fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return os.NewSyscallError("openat2", err)
	}
	return unix.Close(fd)
}

func closeRange() error {
	// No descriptor is that high.
	return os.NewSyscallError("close_range", unix.CloseRange(math.MaxInt32, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC))
}

// aside runs fn on a thread with a mount namespace of its own. The thread ends with fn, and
// so do the namespaces that it is in.
func aside(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				return os.NewSyscallError("unshare", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
				return fmt.Errorf("make the mounts private: %w", err)
			}
			return fn()
		}()
	}()
	return <-done
}

// detachedMounts makes a mount and a copy of one, alters the copy and gives the other a
// place. It is for aside.
func detachedMounts() error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(tree)
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	return scratch()
}

// scratch mounts an empty tmpfs on /run. It is for aside.
func scratch() error {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return os.NewSyscallError("fsconfig", err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fsmount", err)
	}
	defer unix.Close(mount)
	return os.NewSyscallError("move_mount", unix.MoveMount(mount, "", unix.AT_FDCWD, "/run", unix.MOVE_MOUNT_F_EMPTY_PATH))
}

// overlay mounts an overlay of two layers in no place. It is for aside.
func overlay() error {
	if err := scratch(); err != nil {
		return err
	}
	for _, dir := range []string{"1", "2", "upper", "work"} {
		if err := os.Mkdir(filepath.Join("/run", dir), 0o700); err != nil {
			return err
		}
	}
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fsopen of an overlay: %w", err)
	}
	defer unix.Close(fs)
	for _, o := range [][2]string{{"lowerdir+", "/run/1"}, {"lowerdir+", "/run/2"}, {"upperdir", "/run/upper"}, {"workdir", "/run/work"}} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return fmt.Errorf("overlay option %s: %w", o[0], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("make an overlay: %w", err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fsmount", err)
	}
	return unix.Close(mount)
}

// namespaces makes those of a container. It is for aside.
func namespaces() error {
	const all = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP
	return os.NewSyscallError("unshare", unix.Unshare(all))
}

// joinByPidfd joins the namespaces that this process is in. It is for aside.
func joinByPidfd() error {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd)
	const all = unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWPID
	return os.NewSyscallError("setns", unix.Setns(fd, all))
}

// sealedProgram makes an executable file in memory and seals it.
func sealedProgram() error {
	const name, flags = "flashcube-probe", unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 memory is executable without being asked
		fd, err = unix.MemfdCreate(name, flags)
	}
	if errors.Is(err, unix.EACCES) {
		return fmt.Errorf("memfd_create: %w (sysctl vm.memfd_noexec is 2)", err)
	}
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	defer unix.Close(fd)
	if err := unix.Faccessat2(fd, "", unix.X_OK, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("memory is not executable: %w", err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return os.NewSyscallError("seal", err)
	}
	return nil
}

// filters asks the compiler and the kernel, whose seccomp(2) tells which answers of a
// filter it knows.
func filters() error {
	if err := seccomp.Supported(); err != nil {
		return err
	}
	const actionAvailable, answerErrno = 2, 0x00050000 // SECCOMP_GET_ACTION_AVAIL, SECCOMP_RET_ERRNO
	answer := uint32(answerErrno)
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, actionAvailable, 0, uintptr(unsafe.Pointer(&answer))); errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}

func cgroups() check.Result {
	r := check.Result{Plugin: Name, Probe: "cgroups", Status: check.OK}
	host, err := cgroup.Warm()
	switch {
	case err != nil:
		r.Status, r.Detail = check.Missing, fmt.Sprintf("%v: no container runs", err)
	case host.Unified():
		r.Detail = "version 2"
	default:
		r.Detail = fmt.Sprintf("version 1, %d hierarchies", len(host.Hierarchies()))
		var fs unix.Statfs_t
		if err := unix.Statfs("/sys/fs/cgroup/unified", &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			r.Detail = "hybrid, " + r.Detail
		}
	}
	return r
}

func appArmor(parameter string) check.Result {
	r := check.Result{Plugin: Name, Probe: "AppArmor", Status: check.OK, Detail: "on: profiles are applied"}
	if text, err := os.ReadFile(parameter); err != nil || !strings.HasPrefix(string(text), "Y") {
		r.Detail = "off on this host: containers that ask for a profile anyway run by the fall-back"
	}
	return r
}
