package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
)

// TestInstall goes the way of an operator: install, restart containerd, use it,
// uninstall. /etc and /opt are the host's with a layer of the test's on top, seen by nobody
// else, and the network is one of the test's.
func TestInstall(t *testing.T) {
	pooltest.NeedRoot(t)
	leaktest.Check(t)
	dir := workDir(t)
	cover(t, dir, "/etc")
	cover(t, dir, "/opt")
	node := netnstest.New(t) // installing looks at its node's network, and removing changes that
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

	dry := on(t, node, "peregrine", "install", "--dry-run")
	if exists("/etc/containerd/conf.d/baoverlay.toml") || !strings.Contains(dry, "would write /etc/containerd/conf.d/baoverlay.toml") {
		t.Errorf("a dry run wrote the drop-in or didn't say that it would: %s", dry)
	}
	on(t, node, "peregrine", "install")
	if text, err := os.ReadFile("/etc/baoverlay/config.toml"); err != nil || string(text) != own {
		t.Errorf("install changed the operator's configuration to %q, %v", text, err)
	}
	if out := on(t, node, "peregrine", "check"); !strings.Contains(out, "knows the snapshotter") {
		t.Errorf("after install, check says:\n%s", out)
	}
	if again := on(t, node, "peregrine", "install", "--dry-run"); !strings.Contains(again, "nothing to do") {
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

	out, err := command(t, node, "peregrine", "uninstall").CombinedOutput()
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
	on(t, node, "peregrine", "uninstall")
	for _, path := range []string{"/etc/containerd/conf.d/baoverlay.toml", "/etc/systemd/system/baoverlay.service", root} {
		if exists(path) {
			t.Errorf("uninstall left %s", path)
		}
	}
	if !exists("/etc/baoverlay/config.toml") {
		t.Error("uninstall removed a configuration that was edited")
	}
}

// TestInstallNetwork is the same way for who wants the network.
func TestInstallNetwork(t *testing.T) {
	pooltest.NeedRoot(t)
	leaktest.Check(t)
	dir := workDir(t)
	cover(t, dir, "/etc")
	cover(t, dir, "/opt")
	cover(t, dir, "/var/lib") // where addresses are noted
	node, other := netnstest.New(t), netnstest.New(t)
	netnstest.Wire(netnstest.End{NS: node, Link: "eth0"}, netnstest.End{NS: other, Link: "eth0"}, 1500)
	node.Address("eth0", "192.0.2.1/24")
	other.Address("eth0", "192.0.2.2/24")
	node.Route("0.0.0.0/0", "192.0.2.2")

	const list = "/etc/cni/net.d/10-falcon.conflist"
	if dry := on(t, node, "peregrine", "install", "--dry-run"); exists(list) || !strings.Contains(dry, "would write "+list) {
		t.Errorf("a dry run wrote the list or didn't say that it would: %s", dry)
	}
	on(t, node, "peregrine", "install")
	if out := on(t, node, "peregrine", "status"); !strings.Contains(out, "falcon: falcond doesn't run") {
		t.Errorf("without the agent the status is\n%s", out)
	}
	if out := on(t, node, "peregrine", "check"); !strings.Contains(out, "192.0.2.1; an MTU of 1450") || !strings.Contains(out, "falcond doesn't run") {
		t.Errorf("without the agent, check says\n%s", out)
	}
	agent := command(t, node, "falcond") // as the unit starts it, but for systemd
	agent.Stderr = os.Stderr
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		if err := agent.Process.Signal(unix.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := agent.Wait(); err != nil {
			t.Errorf("falcond: %v", err)
		}
	})
	defer stop()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		out := on(t, node, "peregrine", "status")
		if strings.Contains(out, "falcond runs (/run/falcon), node ") && strings.Contains(out, "ready") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the network doesn't get ready:\n%s", out)
		}
	}
	if out := on(t, node, "peregrine", "check"); !strings.Contains(out, "no other nodes are configured") {
		t.Errorf("with the agent, check says\n%s", out)
	}

	container := netnstest.New(t)
	result := attachInstalled(t, node, list, container)
	if !strings.Contains(result, `"address": "10.88.0.`) {
		t.Errorf("attached a container: %s", result)
	}
	outside := other.Echo("udp", "192.0.2.2:7")
	if err := container.Try("udp", outside, time.Minute); err != nil {
		t.Errorf("from the container to the outside: %v", err)
	}
	if out, err := command(t, node, "peregrine", "uninstall").CombinedOutput(); err == nil || !strings.Contains(string(out), "falcon is in use") {
		t.Errorf("uninstall with a container attached: %v\n%s", err, out)
	}
	detachInstalled(t, node, list, container)
	stop()
	on(t, node, "peregrine", "uninstall")
	for _, path := range []string{list, "/etc/falcon", "/etc/systemd/system/falcond.service", "/opt/cni/bin/falcon", "/run/falcon"} {
		if exists(path) {
			t.Errorf("uninstall left %s", path)
		}
	}
	if links := on(t, node, "ip", "-o", "link"); strings.Contains(links, "fb1") || strings.Contains(links, "fx1") {
		t.Errorf("uninstall left links:\n%s", links)
	}
}

// attachInstalled has libcni add a container to the installed list's network, as runtimes do.
func attachInstalled(t *testing.T, node *netnstest.NS, list string, container *netnstest.NS) string {
	t.Helper()
	var text strings.Builder
	installed(t, node, list, container, func(cni *libcni.CNIConfig, l *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
		result, err := cni.AddNetworkList(t.Context(), l, rt)
		if err == nil {
			err = result.PrintTo(&text)
		}
		return err
	})
	return text.String()
}

func detachInstalled(t *testing.T, node *netnstest.NS, list string, container *netnstest.NS) {
	t.Helper()
	installed(t, node, list, container, func(cni *libcni.CNIConfig, l *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
		return cni.DelNetworkList(t.Context(), l, rt)
	})
}

func installed(t *testing.T, node *netnstest.NS, list string, container *netnstest.NS, do func(*libcni.CNIConfig, *libcni.NetworkConfigList, *libcni.RuntimeConf) error) {
	t.Helper()
	l, err := libcni.ConfListFromFile(list)
	if err != nil {
		t.Fatal(err)
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{"/opt/cni/bin"}, t.TempDir(), nil)
	rt := &libcni.RuntimeConf{ContainerID: "installed", NetNS: container.Path(), IfName: "eth0"}
	node.Do(func() { err = do(cni, l, rt) })
	if err != nil {
		t.Fatal(err)
	}
}

// command is a program of the bundle, or of the host, on a node.
func command(t *testing.T, node *netnstest.NS, program string, args ...string) *exec.Cmd {
	t.Helper()
	if ours, err := filepath.Abs(filepath.Join(bin, program)); err == nil && exists(ours) {
		program = ours
	}
	return exec.CommandContext(t.Context(), "nsenter", append([]string{"--net=" + node.Path(), program}, args...)...)
}

// on runs a command on a node and returns what it prints.
func on(t *testing.T, node *netnstest.NS, program string, args ...string) string {
	t.Helper()
	out, err := command(t, node, program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// cover lays a directory of the test over one of the host. Only the sandbox that the tests
// run in sees it.
func cover(t *testing.T, dir, path string) {
	t.Helper()
	upper := filepath.Join(dir, filepath.Base(path))
	work := upper + ".work"
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := "lowerdir=" + path + ",upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", path, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, 0); err != nil {
			t.Error(err)
		}
	})
}
