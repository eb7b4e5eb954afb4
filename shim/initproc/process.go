package initproc

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/plan"
)

// program is what is left to do: a process with its credentials, one step from execve.
type program struct {
	path    string
	args    []string
	env     []string
	seccomp *plan.Process // has a filter yet to load
}

// assume takes on the credentials and limits of a process, in runc's order, for each
// step needs what a later one gives away (libcontainer/standard_init_linux.go).
func assume(p *plan.Process) (*program, error) {
	unix.Umask(int(p.Umask))
	if err := setRlimits(p.Rlimits); err != nil {
		return nil, err
	}
	if p.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return nil, fmt.Errorf("set no_new_privs: %w", err)
		}
	}
	env, err := withHome(p)
	if err != nil {
		return nil, err
	}
	prog := &program{args: p.Args, env: env}
	if p.Seccomp != nil {
		if p.NoNewPrivileges {
			prog.seccomp = p // anybody may load it then: as late as can be
		} else if err := loadSeccomp(p); err != nil {
			return nil, err
		}
	}
	if err := dropBounding(p.Capabilities.Bounding); err != nil {
		return nil, err
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("keep capabilities: %w", err)
	}
	if err := ownStdio(p.UID); err != nil {
		return nil, err
	}
	// A directory that only root may enter, or only the user: either will do.
	chdir := changeDir(p.Cwd)
	if chdir != nil && !errors.Is(chdir, unix.EACCES) && !errors.Is(chdir, unix.EPERM) {
		return nil, chdir
	}
	if err := setIDs(p); err != nil {
		return nil, err
	}
	if chdir != nil {
		if err := changeDir(p.Cwd); err != nil {
			return nil, err
		}
	}
	if err := checkCwd(); err != nil {
		return nil, err
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("forget to keep capabilities: %w", err)
	}
	if err := setCapabilities(p.Capabilities); err != nil {
		return nil, err
	}
	// The change of user has set this anew.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, err
	}
	prog.path, err = lookPath(p.Args[0], env)
	return prog, err
}

// run waits for the word, and becomes the program. It returns on failure only.
func (g *program) run() error {
	var buf [1]byte
	for {
		n, err := unix.Read(Socket, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for the start: %w", err)
		}
		if n == 0 {
			os.Exit(0) // the shim is gone: so is the container that never ran
		}
		break
	}
	if buf[0] != Start {
		return fmt.Errorf("message %q where the start is due", buf[:])
	}
	if g.seccomp != nil {
		if err := loadSeccomp(g.seccomp); err != nil {
			return err
		}
	}
	if err := syscall.Exec(g.path, g.args, g.env); err != nil {
		return fmt.Errorf("exec %s: %w", g.path, err)
	}
	return nil
}

// setRlimits sets the limits of this process.
func setRlimits(limits []plan.Rlimit) error {
	// Go has raised the soft limit of open files, and undoes that in Exec, even in one
	// that fails; it keeps to itself what it was.
	_ = syscall.Exec("", []string{""}, nil)
	for _, l := range limits {
		if err := unix.Prlimit(0, l.Type, &unix.Rlimit{Cur: l.Soft, Max: l.Hard}, nil); err != nil {
			return fmt.Errorf("set rlimit %d to %d:%d: %w", l.Type, l.Soft, l.Hard, err)
		}
	}
	return nil
}

// loadSeccomp confines this thread, and so what it becomes.
func loadSeccomp(p *plan.Process) error {
	const size = int(unsafe.Sizeof(unix.SockFilter{}))
	if len(p.Seccomp) == 0 || len(p.Seccomp)%size != 0 {
		return fmt.Errorf("seccomp filter of %d bytes: %w", len(p.Seccomp), unix.EINVAL)
	}
	prog := unix.SockFprog{
		Len:    uint16(len(p.Seccomp) / size),
		Filter: (*unix.SockFilter)(unsafe.Pointer(unsafe.SliceData(p.Seccomp))),
	}
	const setModeFilter = 1
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, setModeFilter, uintptr(p.SeccompFlags), uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("load the seccomp filter: %w", errno)
	}
	return nil
}

// dropBounding leaves nothing but keep in the bounding set.
func dropBounding(keep uint64) error {
	for c := uintptr(0); c < 64; c++ {
		if keep&(1<<c) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			if err == unix.EINVAL { // beyond the kernel's last
				return nil
			}
			return fmt.Errorf("drop capability %d from the bounding set: %w", c, err)
		}
	}
	return nil
}

func setCapabilities(c plan.Capabilities) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(c.Effective), Permitted: uint32(c.Permitted), Inheritable: uint32(c.Inheritable)},
		{Effective: uint32(c.Effective >> 32), Permitted: uint32(c.Permitted >> 32), Inheritable: uint32(c.Inheritable >> 32)},
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	for i := uintptr(0); i < 64; i++ {
		if c.Ambient&(1<<i) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, i, 0, 0); err != nil {
			return fmt.Errorf("raise ambient capability %d: %w", i, err)
		}
	}
	return nil
}

// setIDs changes user and groups, of this thread alone.
func setIDs(p *plan.Process) error {
	var groups *uint32
	if len(p.Groups) > 0 {
		groups = &p.Groups[0]
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(p.Groups)), uintptr(unsafe.Pointer(groups)), 0); errno != 0 {
		return fmt.Errorf("set groups: %w", errno)
	}
	gid, uid := uintptr(p.GID), uintptr(p.UID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); errno != 0 {
		return fmt.Errorf("set gid %d: %w", p.GID, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
		return fmt.Errorf("set uid %d: %w", p.UID, errno)
	}
	return nil
}

// ownStdio gives the streams to the user, who may want to open them again by
// /proc/self/fd.
func ownStdio(uid uint32) error {
	for fd := range 3 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("stdio: %w", err)
		}
		if st.Uid == uid || st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
			continue
		}
		err := unix.Fchown(fd, int(uid), int(st.Gid))
		// A file on a read-only or foreign filesystem stays whose it is.
		if err != nil && err != unix.EINVAL && err != unix.EPERM && err != unix.EROFS {
			return fmt.Errorf("give stdio to user %d: %w", uid, err)
		}
	}
	return nil
}

func changeDir(cwd string) error {
	if cwd == "" {
		return nil
	}
	if err := unix.Chdir(cwd); err != nil {
		return fmt.Errorf("chdir to cwd (%q) set in config.json failed: %w", cwd, err)
	}
	return nil
}

// checkCwd makes sure that the working directory is in the root, and no descriptor or
// link led out of it (CVE-2024-21626).
func checkCwd() error {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Getcwd(buf)
	if err != nil {
		return fmt.Errorf("the working directory: %w", err)
	}
	if n == 0 || buf[0] != '/' {
		return fmt.Errorf("the working directory is outside of the container: %w", unix.EPERM)
	}
	return nil
}

// withHome adds HOME from the container's /etc/passwd, unless the process has one.
func withHome(p *plan.Process) ([]string, error) {
	for i, kv := range p.Env {
		if home, ok := strings.CutPrefix(kv, "HOME="); ok {
			if home != "" {
				return p.Env, nil
			}
			p.Env = append(p.Env[:i:i], p.Env[i+1:]...)
			break
		}
	}
	home := "/"
	if passwd := openRegular("/etc/passwd"); passwd != nil {
		defer passwd.Close()
		who, err := user.GetExecUser(strconv.FormatUint(uint64(p.UID), 10)+":"+strconv.FormatUint(uint64(p.GID), 10),
			&user.ExecUser{Home: "/"}, passwd, nil)
		if err == nil {
			home = who.Home
		}
	}
	return append(p.Env, "HOME="+home), nil
}

// openRegular opens a file of the container if it is an ordinary one: a fifo or device
// could keep this process waiting for ever. Else it is nil.
func openRegular(file string) *os.File {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil
	}
	// The poller refuses ordinary files: nothing else of the runtime's is begun.
	return os.NewFile(uintptr(fd), file)
}

// lookPath finds a program as a shell would. Its errors are worded as os/exec's, which
// clients look for.
func lookPath(file string, env []string) (string, error) {
	if strings.Contains(file, "/") {
		if err := executable(file); err != nil {
			return "", fmt.Errorf("exec: %q: %w", file, err)
		}
		return file, nil
	}
	var path string
	for _, kv := range env {
		if value, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = value
		}
	}
	for _, dir := range strings.Split(path, ":") {
		if !strings.HasPrefix(dir, "/") {
			continue // what lies in the working directory is never meant
		}
		if try := dir + "/" + file; executable(try) == nil {
			return try, nil
		}
	}
	return "", fmt.Errorf("exec: %q: executable file not found in $PATH", file)
}

func executable(file string) error {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return fmt.Errorf("stat %s: %w", file, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EACCES // as execve(2) has it
	}
	// A filter may not know faccessat2: then this goes by the file's mode.
	return unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS)
}
