// Package claimtest has a stand-in for flashcube-shim, which keeps the directory protocol
// and does nothing else. It is the test binary itself under that name.
package claimtest

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/claim"
)

// Mode is an environment variable that makes stand-ins fail: "exit" before the part is
// ready, "remove" the same with its directory, "hang" then, "die" right after, "nice"
// leaves the part at low priority.
const Mode = "CLAIMTEST_MODE"

// lifetime ends a stand-in that a test forgot.
const lifetime = 5 * time.Minute

// Main runs the stand-in if this process is one, and returns otherwise. TestMain begins
// with it.
func Main() {
	if filepath.Base(os.Args[0]) != claim.ShimBinary {
		return
	}
	time.AfterFunc(lifetime, func() { os.Exit(1) })
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Install puts the stand-in into a directory and returns its path.
func Install(tb testing.TB, dir string) string {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(dir, claim.ShimBinary)
	if err := os.Symlink(self, path); err != nil {
		tb.Fatal(err)
	}
	return path
}

// Report is what a stand-in tells whoever connects, as JSON, once it is claimed.
type Report struct {
	Claim    claim.Request
	Pid      int
	Session  int      // leader's process id
	Files    []string // what its descriptors are
	Cwd      string
	SelfMade bool // began with -cold
}

func run(args []string) error {
	if len(args) > 0 && args[0] == "-cleanup" {
		wd, err := os.Getwd()
		fmt.Printf("cleanup in %s: %s", wd, strings.Join(args[1:], " "))
		return err
	}
	if len(args) > 0 && args[0] == "-info" {
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	}
	set := flag.NewFlagSet("", flag.ContinueOnError)
	dir := set.String("dir", "", "")
	cold := set.Bool("cold", false, "")
	set.Int("init", 0, "")
	if err := set.Parse(args); err != nil {
		return err
	}
	files := descriptors()
	l, err := listen(*dir, *cold)
	if err != nil {
		return err
	}
	if err := writePid(*dir); err != nil {
		return err
	}
	place := *dir
	if !*cold {
		switch os.Getenv(Mode) {
		case "exit":
			return errors.New("no cube today")
		case "remove":
			return errors.Join(errors.New("removed"), os.RemoveAll(*dir))
		case "hang":
			select {}
		}
		if err := ready(*dir); err != nil {
			return err
		}
		if os.Getenv(Mode) == "die" {
			return errors.New("too late")
		}
		place = filepath.Join(filepath.Dir(filepath.Dir(*dir)), claim.Claimed, filepath.Base(*dir))
	}
	return serve(l, place, files, *cold)
}

func listen(dir string, cold bool) (net.Listener, error) {
	if cold {
		return net.FileListener(os.NewFile(3, "listener"))
	}
	l, err := net.Listen("unix", filepath.Join(dir, claim.Socket))
	if err == nil {
		l.(*net.UnixListener).SetUnlinkOnClose(false)
	}
	return l, err
}

func writePid(dir string) error {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	return os.WriteFile(filepath.Join(dir, claim.PidFile), fmt.Appendf(nil, "%d %s\n", os.Getpid(), fields[19]), 0o600)
}

func ready(dir string) error {
	if os.Getenv(Mode) != "nice" {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, task := range tasks {
			var tid int
			fmt.Sscan(task.Name(), &tid)
			if err := unix.Setpriority(unix.PRIO_PROCESS, tid, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return os.Rename(dir, filepath.Join(filepath.Dir(filepath.Dir(dir)), claim.Ready, filepath.Base(dir)))
}

// serve answers every connection with a report and lives on.
func serve(l net.Listener, dir string, files []string, cold bool) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		r := Report{Pid: os.Getpid(), Files: files, SelfMade: cold}
		r.Session, _ = unix.Getsid(0)
		r.Cwd, _ = os.Getwd()
		text, err := os.ReadFile(filepath.Join(dir, claim.ClaimFile))
		if err == nil {
			err = json.Unmarshal(text, &r.Claim)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		_ = json.NewEncoder(conn).Encode(r) // the claimer has hung up
		conn.Close()
	}
}

// descriptors lists what this process was given.
func descriptors() []string {
	entries, _ := os.ReadDir("/proc/self/fd")
	var all []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		// The runtime opens some for itself.
		if err == nil && !strings.HasPrefix(target, "anon_inode:") && !strings.HasPrefix(target, "/proc/") && !strings.HasPrefix(target, "/sys/fs/cgroup/") {
			all = append(all, e.Name()+" "+target)
		}
	}
	return all
}

// Ask connects to the stand-in that has an address and returns its report.
func Ask(tb testing.TB, address string) Report {
	tb.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		tb.Fatal(err)
	}
	var r Report
	if err := json.NewDecoder(conn).Decode(&r); err != nil {
		tb.Fatal(err)
	}
	return r
}

// KillParts ends every stand-in of a profile's directory, wherever in it they are.
func KillParts(tb testing.TB, dir string) {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*", "*", claim.PidFile))
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range files {
		text, _ := os.ReadFile(name) // it may be gone
		var pid int
		if _, err := fmt.Sscan(string(text), &pid); err != nil || pid <= 1 {
			continue
		}
		// Not of another process that has the number by now.
		if exe, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err != nil || !strings.Contains(string(exe), claim.ShimBinary) {
			continue
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			tb.Error(err)
		}
		_, _ = unix.Wait4(pid, nil, 0, nil) // if it is a child
	}
}
