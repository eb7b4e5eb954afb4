package cube_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/cube"
	"github.com/peregrine-dev/peregrine/shim/cube/cubetest"
)

func TestLife(t *testing.T) {
	b := builder(t)
	for _, ahead := range []bool{true, false} {
		t.Run(fmt.Sprintf("ahead %t", ahead), func(t *testing.T) {
			before := mountinfo(t)
			s := usual(t, `echo $$ $(cat /proc/net/dev | grep -c :); cat /sys/class/net/lo/operstate; exit 3`)
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/host", Source: "/etc", Type: "bind", Options: []string{"rbind", "ro"}})
			out, status := run(t, b, s, ahead)
			if out != "1 1\nunknown\n" || status != 3 {
				t.Errorf("%q, status %d", out, status)
			}
			if now := mountinfo(t); now != before {
				t.Errorf("the host sees mounts: %s", now)
			}
		})
	}
}

// TestConfinement looks from outside at a container's process.
func TestConfinement(t *testing.T) {
	b := builder(t)
	s := usual(t, "echo up; exec sleep 100")
	s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{1002}}
	s.Process.Capabilities.Effective, s.Process.Capabilities.Permitted = nil, []string{"CAP_CHOWN"}
	s.Process.Capabilities.Bounding = []string{"CAP_CHOWN", "CAP_KILL"}
	s.Process.Cwd = "/desk/here"
	x, err := begin(t, b, s, true)
	if err != nil {
		t.Fatal(err)
	}
	dir := fmt.Sprintf("/proc/%d", x.Pid)
	// Before its program it can't be traced by others of the same user: its files are
	// root's.
	var st unix.Stat_t
	if err := unix.Stat(dir+"/environ", &st); err != nil || st.Uid != 0 {
		t.Errorf("it is dumpable: %d, %v", st.Uid, err)
	}
	program, err := os.Open(dir + "/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	if seals, err := unix.FcntlInt(program.Fd(), unix.F_GET_SEALS, 0); err != nil || seals&unix.F_SEAL_WRITE == 0 {
		t.Errorf("its program has seals %#x, %v", seals, err)
	}
	if err := x.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 3)
	if _, err := x.out.Read(buf); err != nil || string(buf) != "up\n" {
		t.Fatal(string(buf), err)
	}
	if got := descriptors(t, dir); got != "0 1 2" {
		t.Errorf("descriptors %s", got)
	}
	text, err := os.ReadFile(dir + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"Uid:\t1000\t1000\t1000\t1000", "Gid:\t1001\t1001\t1001\t1001", "Groups:\t1002 ", "NoNewPrivs:\t1", "Seccomp:\t2", "Seccomp_filters:\t1",
		"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000021", "CapAmb:\t0000000000000000",
		"Umask:\t0022", "SigBlk:\t0000000000000000",
	} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("no %q in %s", line, text)
		}
	}
	if cwd, err := os.Readlink(dir + "/cwd"); err != nil || cwd != "/desk/here" {
		t.Errorf("%s, %v", cwd, err)
	}
}

// TestSharedRoot has a root on a mount that is shared, as every mount is under systemd:
// what is mounted in the container must not come back.
func TestSharedRoot(t *testing.T) {
	b := builder(t)
	s := usual(t, "exec sleep 100")
	top := filepath.Dir(s.Root.Path)
	if err := unix.Mount(top, top, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(top, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", top, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	for _, propagation := range []string{"", "rprivate", "rslave"} {
		t.Run("root "+propagation, func(t *testing.T) {
			s.Linux.RootfsPropagation = propagation
			before := mountinfo(t)
			x, err := begin(t, b, s, false)
			if err == nil {
				err = x.Start()
			}
			if err != nil {
				t.Error(err)
			}
			if now := mountinfo(t); now != before {
				t.Errorf("the host sees mounts:\n%s", now)
			}
		})
	}
}

func TestJoined(t *testing.T) {
	b := builder(t)
	first := started(t, b, usual(t, "exec sleep 100"), true)
	of := func(pid int, name string) string {
		t.Helper()
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	s := usual(t, "exec sleep 100")
	for i, ns := range s.Linux.Namespaces {
		if ns.Type == specs.MountNamespace {
			continue
		}
		name := map[specs.LinuxNamespaceType]string{
			specs.PIDNamespace: "pid", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts", specs.NetworkNamespace: "net",
		}[ns.Type]
		s.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/%s", first.Pid, name)
	}
	for range 2 {
		second := started(t, b, s, false)
		for _, name := range []string{"pid", "ipc", "uts", "net"} {
			if a, b := of(first.Pid, name), of(second.Pid, name); a != b {
				t.Errorf("%s: %s and %s", name, a, b)
			}
		}
		if of(first.Pid, "mnt") == of(second.Pid, "mnt") {
			t.Error("one mount namespace")
		}
	}
}

func TestHostNamespaces(t *testing.T) {
	b := builder(t)
	s := usual(t, "echo $$; cat /proc/"+fmt.Sprint(os.Getpid())+"/comm; for n in pid net ipc uts; do readlink /proc/self/ns/$n; done")
	s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	self, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	s.Process.Args[2] = strings.ReplaceAll(s.Process.Args[2], "readlink", "busybox readlink")
	x := started(t, b, s, true)
	want := fmt.Sprint(x.Pid) + "\n" + string(self)
	for _, name := range []string{"pid", "net", "ipc", "uts"} {
		link, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			t.Fatal(err)
		}
		want += link + "\n"
	}
	if out := x.rest(); out != want || x.wait() != 0 {
		t.Errorf("got %q, want %q", out, want)
	}
}

func TestExec(t *testing.T) {
	b := builder(t)
	x := started(t, b, usual(t, "exec sleep 100"), true)
	p := x.compiled.Plan.Process
	p.UID, p.Cwd, p.Env = 33, "/tmp", append(p.Env, "A=b")

	p.Args = []string{"sh", "-c", "echo $$ $A $(id -u) $(pwd) $(busybox readlink /proc/1/exe); ls /proc/self/fd; exit 5"}
	y, err := x.exec(p, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := y.Start(); err != nil {
		t.Fatal(err)
	}
	out := strings.Fields(y.rest())
	if len(out) < 4 || strings.Join(out[1:], " ") != "b 33 /tmp 0 1 2 3" && strings.Join(out[1:], " ") != "b 33 /tmp /bin/busybox 0 1 2 3" || y.wait() != 5 {
		t.Errorf("%q, status %d", out, y.wait())
	}

	p.Terminal, p.Width, p.Height = true, 91, 33
	p.Args = []string{"sh", "-c", "tty; stty size; ls -l /dev/pts/0"}
	if y, err = x.exec(p, true); err != nil {
		t.Fatal(err)
	}
	if err := y.Start(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	buf := make([]byte, 1024)
	for {
		n, err := y.console.Read(buf)
		text.Write(buf[:n])
		if err != nil { // EIO: nobody has the slave open
			break
		}
	}
	if got := text.String(); !strings.HasPrefix(got, "/dev/pts/0\r\n33 91\r\n") || !strings.Contains(got, " 33 ") || y.wait() != 0 {
		t.Errorf("%q, status %d", got, y.wait())
	}

	p.Terminal = false
	for name, args := range map[string][]string{
		"no such file or directory":          {"/no/such"},
		"executable file not found in $PATH": {"nothing"},
		"\"/tmp\": permission denied":        {"/tmp"},
	} {
		p.Args = args
		if _, err := x.exec(p, true); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v: %v", args, err)
		}
	}
	// One that never starts ends when it is let go.
	p.Args = []string{"true"}
	if y, err = x.exec(p, true); err != nil {
		t.Fatal(err)
	}
	y.letGo()
	if got := y.wait(); got != 0 {
		t.Errorf("status %d", got)
	}
}

func TestTerminal(t *testing.T) {
	b := builder(t)
	s := usual(t, "tty; stty size; echo ok >/dev/console; [ /dev/console -ef /dev/pts/0 ] || ls -l /dev/console")
	s.Process.Terminal, s.Process.ConsoleSize = true, &specs.Box{Width: 81, Height: 26}
	x := started(t, b, s, true)
	var text strings.Builder
	buf := make([]byte, 1024)
	for {
		n, err := x.console.Read(buf)
		text.Write(buf[:n])
		if err != nil {
			break
		}
	}
	if got := text.String(); !strings.HasPrefix(got, "/dev/pts/0\r\n26 81\r\nok\r\n") || x.wait() != 0 {
		t.Errorf("%q, status %d", got, x.wait())
	}
}

func TestFailures(t *testing.T) {
	b := builder(t)
	for _, c := range []struct {
		name   string
		change func(*specs.Spec)
		text   string
		errno  error
	}{
		{"missing", func(s *specs.Spec) { s.Process.Args = []string{"/no/such"} }, "stat /no/such: no such file or directory", unix.ENOENT},
		{"not in path", func(s *specs.Spec) { s.Process.Args = []string{"nothing"} }, `exec: "nothing": executable file not found in $PATH`, nil},
		{"not executable", func(s *specs.Spec) {
			write(t, s, "/bin/plain", 0o644)
			s.Process.Args = []string{"/bin/plain"}
		}, "permission denied", unix.EACCES},
		{"cwd is a file", func(s *specs.Spec) {
			write(t, s, "/plain", 0o644)
			s.Process.Cwd = "/plain"
		}, "not a directory", unix.ENOTDIR},
		{"no source", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Source: "/no/such", Options: []string{"bind"}})
		}, "/no/such", unix.ENOENT},
		{"over /proc", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc/sys", Type: "tmpfs", Source: "t"})
		}, "inside /proc", unix.EPERM},
		{"no /dev/pts", func(s *specs.Spec) {
			s.Process.Terminal, s.Mounts = true, s.Mounts[:2]
		}, "open the terminal", unix.ENOENT},
		{"sysctl", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net.no.such": "1"} }, "sysctl net.no.such", unix.ENOENT},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := usual(t, "exit 0")
			c.change(s)
			x, err := begin(t, b, s, false)
			if err == nil || !strings.Contains(err.Error(), c.text) || c.errno != nil && !errors.Is(err, c.errno) {
				t.Fatal(err)
			}
			var from *cube.InitError
			if errors.As(err, &from) {
				if got := x.wait(); got != 1 { // it ended by itself
					t.Errorf("status %d", got)
				}
			}
		})
	}
}

// TestDirectoryByDescriptor: whatever the init has open, its program doesn't get outside
// of its root by it (CVE-2024-21626).
func TestDirectoryByDescriptor(t *testing.T) {
	b := builder(t)
	for fd := 3; fd < 20; fd++ {
		s := usual(t, "exec sleep 100")
		s.Process.Cwd = fmt.Sprintf("/proc/self/fd/%d", fd)
		x, err := begin(t, b, s, false)
		if err != nil {
			continue
		}
		if err := x.Start(); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"../../../../etc/passwd", "etc/passwd"} {
			// Nothing of the host's is below, or above.
			if _, err := os.Stat(fmt.Sprintf("/proc/%d/cwd/%s", x.Pid, path)); err == nil {
				t.Errorf("descriptor %d leads outside", fd)
			}
		}
	}
}

func write(t *testing.T, s *specs.Spec, name string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(s.Root.Path+name, []byte("x"), mode); err != nil {
		t.Fatal(err)
	}
}

// TestLetGo: an init ends when its shim does, whatever it waits for.
func TestLetGo(t *testing.T) {
	b := builder(t)
	p, err := b.Init(unix.CLONE_NEWNS|unix.CLONE_NEWPID, nil, -1)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	if _, err := unix.Wait4(p.Pid, nil, 0, nil); err != nil {
		t.Error(err)
	}
	x, err := begin(t, b, usual(t, "echo no"), false)
	if err != nil {
		t.Fatal(err)
	}
	x.letGo()
	if out := x.rest(); out != "" || x.wait() != 0 {
		t.Errorf("%q, status %d", out, x.wait())
	}
}

func TestBuilder(t *testing.T) {
	if _, err := cube.NewBuilder("/no/such"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	plain, err := os.Open(cubetest.Init(t))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := cube.Inherited(plain); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}
