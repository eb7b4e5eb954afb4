package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
)

// TestInstallPlasma is the same way for who wants elasticity: install, run plasmad, start a
// service, end it, uninstall.
func TestInstallPlasma(t *testing.T) {
	pooltest.NeedRoot(t)
	leaktest.Check(t)
	dir := workDir(t)
	cover(t, dir, "/etc")
	cover(t, dir, "/opt")
	cover(t, dir, "/var/lib") // where actors store
	node := netnstest.New(t)
	c, err := harness.StartContainerd(t.Context(), cache(t), harness.Versions[0], dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	image := busybox(t)
	ctr(t, c, "image", "import", image.Archive)
	own := fmt.Sprintf("containerd = %q\nnamespace = %q\n[web]\naddress = \"\"\n", c.Address, c.Namespace)
	if err := os.MkdirAll("/etc/plasma", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/etc/plasma/config.toml", []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}

	on(t, node, "peregrine", "install")
	if out := on(t, node, "peregrine", "status"); !strings.Contains(out, "plasma: plasmad doesn't run") {
		t.Errorf("without plasmad the status is\n%s", out)
	}
	if out := on(t, node, "peregrine", "check"); !strings.Contains(out, "servers run by io.containerd.runc.v2 on overlayfs") || !strings.Contains(out, "plasmad doesn't run") {
		t.Errorf("without plasmad, check says\n%s", out)
	}
	daemon := command(t, node, "plasmad") // as the unit starts it, but for systemd
	daemon.Stderr = os.Stderr
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		if err := daemon.Process.Signal(unix.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := daemon.Wait(); err != nil {
			t.Errorf("plasmad: %v", err)
		}
	})
	defer stop()
	says := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			out := on(t, node, "peregrine", "status")
			if strings.Contains(strings.Join(strings.Fields(out), " "), what) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("the status doesn't say %q:\n%s", what, out)
			}
		}
	}
	says("plasma: plasmad runs (/run/plasma/plasmad.sock), cluster plasma, led by ")

	programs, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "app.toml")
	text := fmt.Sprintf("name = \"app\"\nimage = %q\ncommand = [\"/app/plasma-app\"]\n[[mounts]]\nsource = %q\ntarget = \"/app\"\nreadonly = true\n", image.Name, programs)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	on(t, node, "plasmactl", "apply", file)
	says("app 1 1 0 0 ready")
	if out := on(t, node, "plasmactl", "call", "app", "Blob/b", "size", "7"); out != "7\n" {
		t.Errorf("an actor answers %q", out)
	}
	if out, err := command(t, node, "peregrine", "uninstall").CombinedOutput(); err == nil || !strings.Contains(string(out), "plasma is in use") || !strings.Contains(string(out), "server app-") {
		t.Errorf("uninstall with a service there: %v\n%s", err, out)
	}
	on(t, node, "plasmactl", "delete", "--yes", "app")
	says("no services")
	for deadline := time.Now().Add(time.Minute); strings.Contains(ctr(t, c, "container", "ls", "-q"), "app-"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the service's container stays")
		}
	}
	stop()
	on(t, node, "peregrine", "uninstall")
	for _, path := range []string{"/etc/systemd/system/plasmad.service", "/run/plasma"} {
		if exists(path) {
			t.Errorf("uninstall left %s", path)
		}
	}
	for _, path := range []string{"/etc/plasma/config.toml", "/var/lib/plasma/etcd"} {
		if !exists(path) {
			t.Errorf("uninstall removed %s", path)
		}
	}
}
