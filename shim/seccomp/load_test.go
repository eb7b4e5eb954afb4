package seccomp

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	gosyscall "syscall"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// childEnv hands a program to a copy of the test binary.
const childEnv = "SECCOMP_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		if err := underFilter(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// underFilter loads a program in this thread and prints the errors of some
// calls made under it.
func underFilter(text string) error {
	p := Program{}
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(p.Len()), Filter: (*unix.SockFilter)(unsafe.Pointer(&p.Filter[0]))}
	if _, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(p.Flags), uintptr(unsafe.Pointer(&prog))); e != 0 {
		return fmt.Errorf("load filter: %w", e)
	}
	out := []string{}
	for _, c := range probes {
		_, _, e := unix.RawSyscall(c.nr, c.a, c.b, 0)
		out = append(out, fmt.Sprintf("%s=%d", c.name, int(e)))
	}
	fmt.Println(strings.Join(out, " "))
	return nil
}

var probes = []struct {
	name     string
	nr, a, b uintptr
}{
	{"getpid", unix.SYS_GETPID, 0, 0},
	{"getppid", unix.SYS_GETPPID, 0, 0},
	{"personality", unix.SYS_PERSONALITY, 0xffffffff, 0},
	{"personality42", unix.SYS_PERSONALITY, 42, 0},
	{"clone3", unix.SYS_CLONE3, 0, 0},
	{"unshare", unix.SYS_UNSHARE, unix.CLONE_NEWUTS, 0},
	{"vsock", unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM},
	{"unix", unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM},
	{"new", 2000, 0, 0},
}

func runUnder(t *testing.T, s *specs.LinuxSeccomp) (string, error) {
	t.Helper()
	p, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = []string{childEnv + "=" + string(text)}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

func TestLoadDefaultProfile(t *testing.T) {
	out, err := runUnder(t, defaultProfile())
	if err != nil {
		t.Fatal(err)
	}
	const want = "getpid=0 getppid=0 personality=0 personality42=1 clone3=38 unshare=1 vsock=1 unix=0 new=38"
	if out != want {
		t.Fatalf("got  %s\nwant %s", out, want)
	}
}

func TestLoadErrno(t *testing.T) {
	out, err := runUnder(t, &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"getppid"}, Action: specs.ActErrno, ErrnoRet: ptr(77)},
		{Names: []string{"personality"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{arg(0, specs.OpMaskedEqual, 0xff, 42)}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out, "getpid=0 getppid=77 personality=0 personality42=1 ") {
		t.Fatal(out)
	}
}

func TestLoadKill(t *testing.T) {
	_, err := runUnder(t, &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"getppid"}, Action: specs.ActKillProcess},
	}})
	exit, ok := err.(*exec.ExitError)
	if !ok {
		t.Fatalf("child ended with %v", err)
	}
	if status := exit.Sys().(gosyscall.WaitStatus); status.Signal() != unix.SIGSYS {
		t.Fatalf("child ended with %v", exit)
	}
}
