package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
)

// TestInstall goes the way of an operator: install, restart containerd, use it,
// uninstall. /etc is the host's with a layer of the test's on top, seen by nobody else.
func TestInstall(t *testing.T) {
	pooltest.NeedRoot(t)
	leaktest.Check(t)
	dir := workDir(t)
	overlayEtc(t, dir)
	root := filepath.Join(dir, "baoverlay")
	if err := os.MkdirAll("/etc/baoverlay", 0o755); err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprintf("root = %q\n[pool]\nsize = \"512MiB\"\n", root)
	if err := os.WriteFile("/etc/baoverlay/config.toml", []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	stock, err := filepath.Abs(filepath.Join(cache(t), "containerd-"+harness.Versions[0]))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", stock+":"+os.Getenv("PATH"))

	dry := run(t, bin+"/peregrine", "install", "--dry-run")
	if exists("/etc/containerd/conf.d/baoverlay.toml") || !strings.Contains(dry, "would write /etc/containerd/conf.d/baoverlay.toml") {
		t.Errorf("a dry run wrote the drop-in or didn't say that it would: %s", dry)
	}
	run(t, bin+"/peregrine", "install")
	if text, err := os.ReadFile("/etc/baoverlay/config.toml"); err != nil || string(text) != own {
		t.Errorf("install changed the operator's configuration to %q, %v", text, err)
	}
	if out := run(t, bin+"/peregrine", "check"); !strings.Contains(out, "knows the snapshotter") {
		t.Errorf("after install, check says:\n%s", out)
	}
	if again := run(t, bin+"/peregrine", "install", "--dry-run"); !strings.Contains(again, "nothing to do") {
		t.Errorf("a second install would do something: %s", again)
	}

	// The daemons as the units start them, but for systemd.
	run(t, bin+"/containerd-baoverlay-grpc", "mount")
	daemon, err := harness.StartInstalled(t.Context(), bin, dir)
	if err != nil {
		t.Fatal(err)
	}
	dropIn, err := os.ReadFile("/etc/containerd/conf.d/baoverlay.toml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := harness.StartContainerd(t.Context(), cache(t), harness.Versions[0], dir, map[string][]byte{"baoverlay.toml": dropIn})
	if err != nil {
		t.Fatal(err)
	}
	image := busybox(t)
	ctr(t, c, "image", "import", onBaoverlay, image.Archive)
	ctr(t, c, "image", "import", image.Archive)
	if out := ctr(t, c, "run", "--rm", onBaoverlay, image.Name, "x", "echo", "ok"); out != "ok\n" {
		t.Errorf("the container printed %q", out)
	}

	out, err := exec.CommandContext(t.Context(), bin+"/peregrine", "uninstall").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "image layer") {
		t.Errorf("uninstall with an image there: %v\n%s", err, out)
	}
	ctr(t, c, "image", "rm", "--sync", image.Name)
	if err := c.Remove(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
	if err := daemon.Stop(); err != nil {
		t.Error(err)
	}
	run(t, bin+"/peregrine", "uninstall")
	for _, path := range []string{"/etc/containerd/conf.d/baoverlay.toml", "/etc/systemd/system/baoverlay.service", root} {
		if exists(path) {
			t.Errorf("uninstall left %s", path)
		}
	}
	if !exists("/etc/baoverlay/config.toml") {
		t.Error("uninstall removed a configuration that was edited")
	}
}

// overlayEtc lays a directory of the test over /etc. Only the sandbox that the tests
// run in sees it.
func overlayEtc(t *testing.T, dir string) {
	t.Helper()
	upper, work := filepath.Join(dir, "etc"), filepath.Join(dir, "etc.work")
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := "lowerdir=/etc,upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", "/etc", "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount("/etc", 0); err != nil {
			t.Error(err)
		}
	})
}
