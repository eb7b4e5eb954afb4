package peers_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/log"

	"github.com/peregrine-dev/peregrine/netplugin/peers"
)

// inotifyChild tells the test's own binary that it is in a user namespace, which has a
// limit of inotify instances of its own.
const inotifyChild = "TEST_PEERS_INOTIFY_CHILD"

func limitInotify(t *testing.T, instances int) {
	t.Helper()
	write(t, "/proc/sys/user/max_inotify_instances", fmt.Sprint(instances))
}

// watches is how many inotify instances the process has.
func watches(t *testing.T) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range all {
		if to, err := os.Readlink(fd); err == nil && strings.HasSuffix(to, ":inotify") {
			n++
		}
	}
	return n
}

// TestFileWithoutInotify has others use all instances: the file is reread until there is
// one again.
func TestFileWithoutInotify(t *testing.T) {
	if os.Getenv(inotifyChild) == "" {
		c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFileWithoutInotify$")
		c.Env = append(os.Environ(), inotifyChild+"=1")
		ids := []syscall.SysProcIDMap{{Size: 1}}
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	var logged bytes.Buffer // read when Run has returned
	before := log.L.Logger.Out
	log.L.Logger.SetOutput(&logged)
	defer log.L.Logger.SetOutput(before)
	limitInotify(t, 0)
	path := filepath.Join(t.TempDir(), "nodes.toml")
	write(t, path, text(node(1)))
	r := run(t, peers.Recheck(peers.File(path), 20*time.Millisecond), node(0))
	for i := 1; i < 5; i++ {
		replace(t, path, text(node(i)))
		r.want(node(i))
	}
	r.wantStatus("connected", connected)
	if n := watches(t); n != 0 {
		t.Fatalf("there are %d watches", n)
	}
	limitInotify(t, 1)
	r.wantStatus("watching again", func(peers.Status) bool { return watches(t) == 1 })
	replace(t, path, text(node(9)))
	r.want(node(9))
	r.stop()
	if n := watches(t); n != 0 {
		t.Errorf("%d watches are left", n)
	}
	if n := strings.Count(logged.String(), "max_user_instances"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, &logged)
	}
}
