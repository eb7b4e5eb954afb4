package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/integration/harness"
)

const onBaoverlay = "--snapshotter=baoverlay"

// TestSnapshotter takes every road that a user has to the snapshotter, on every line of
// containerd.
func TestSnapshotter(t *testing.T) {
	for _, version := range harness.Versions {
		t.Run(version, func(t *testing.T) {
			c, bao := setUp(t, version)
			image := busybox(t)

			t.Run("pull", func(t *testing.T) {
				ref := serve(t, image)
				ctr(t, c, "image", "pull", onBaoverlay, "--plain-http", ref)
				ctr(t, c, "run", "--rm", onBaoverlay, ref, "pulled", "true")
				ctr(t, c, "image", "rm", "--sync", ref)
			})
			t.Run("import", func(t *testing.T) {
				ctr(t, c, "image", "import", onBaoverlay, image.Archive)
				if n := strings.Count(ctr(t, c, "snapshots", onBaoverlay, "ls"), "Committed"); n != 2 {
					t.Errorf("%d layers unpacked, want 2", n)
				}
			})
			t.Run("run", func(t *testing.T) {
				out := ctr(t, c, "run", "--rm", onBaoverlay, image.Name, "writer",
					"sh", "-c", "echo new > /etc/motd && cat /etc/motd && mv /etc /moved && cat /moved/motd")
				if out != "new\nnew\n" {
					t.Errorf("container printed %q", out)
				}
				if out := ctr(t, c, "run", "--rm", onBaoverlay, image.Name, "reader", "cat", "/etc/motd"); out == "new\n" {
					t.Error("a container's write reached its image")
				}
			})
			t.Run("snapshots", func(t *testing.T) { snapshotCommands(t, c) })
			t.Run("diff of a renamed directory", func(t *testing.T) { diffOfRename(t, c, image.Name) })
			t.Run("kill", func(t *testing.T) { killWhileRunning(t, c, bao, image.Name) })
		})
	}
}

// topLayer is the name of the image's uppermost layer: the one nobody's parent.
func topLayer(t *testing.T, c *harness.Containerd) string {
	t.Helper()
	parents, layers := map[string]bool{}, []string{}
	for _, line := range strings.Split(ctr(t, c, "snapshots", onBaoverlay, "ls"), "\n") {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 3 && fields[2] == "Committed":
			parents[fields[1]] = true
			layers = append(layers, fields[0])
		case len(fields) == 2 && fields[1] == "Committed":
			layers = append(layers, fields[0])
		}
	}
	for _, layer := range layers {
		if !parents[layer] {
			return layer
		}
	}
	t.Fatalf("no top layer among %q", layers)
	return ""
}

func snapshotCommands(t *testing.T, c *harness.Containerd) {
	top := topLayer(t, c)
	at := t.TempDir()
	out := ctr(t, c, "snapshots", onBaoverlay, "prepare", "--target", at, "work", top)
	if !strings.Contains(out, "mount -t overlay") {
		t.Errorf("prepare printed %q", out)
	}
	if mounts := ctr(t, c, "snapshots", onBaoverlay, "mounts", at, "work"); mounts != out {
		t.Errorf("prepare printed %q, mounts %q", out, mounts)
	}
	mount(t, out)
	if err := os.WriteFile(filepath.Join(at, "added"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	unmount(t, at)
	usage := strings.Fields(ctr(t, c, "snapshots", onBaoverlay, "usage", "work"))
	if got := strings.Join(usage[len(usage)-4:len(usage)-1], " "); got != "work 1.0 MiB" {
		t.Errorf("usage is %q, want 1.0 MiB", got)
	}
	ctr(t, c, "snapshots", onBaoverlay, "commit", "layer", "work")
	if diff := ctr(t, c, "snapshots", onBaoverlay, "diff", "layer"); len(diff) < 100 {
		t.Errorf("diff has %d bytes", len(diff))
	}
	// A view that nothing refers to is garbage at once: only what is printed counts.
	if out := ctr(t, c, "snapshots", onBaoverlay, "view", "--target", at, "look", "layer"); !strings.Contains(out, "lowerdir=") || strings.Contains(out, "upperdir=") {
		t.Errorf("view printed %q", out)
	}
	if out := ctr(t, c, "snapshots", onBaoverlay, "info", "layer"); !strings.Contains(out, top) {
		t.Errorf("info printed %q", out)
	}
	ctr(t, c, "snapshots", onBaoverlay, "prepare", "gone", top)
	ctr(t, c, "snapshots", onBaoverlay, "rm", "gone")
}

// diffOfRename commits a snapshot in which a directory of the image was renamed, which
// overlayfs notes as a redirect, and applies its diff elsewhere: what was moved must be
// in it.
func diffOfRename(t *testing.T, c *harness.Containerd, image string) {
	ctr(t, c, "run", onBaoverlay, image, "mover", "mv", "/etc", "/moved")
	diff := ctr(t, c, "snapshots", onBaoverlay, "diff", "mover")
	ctr(t, c, "container", "rm", "mover")
	tar := filepath.Join(t.TempDir(), "diff.tar.gz")
	if err := os.WriteFile(tar, []byte(diff), 0o600); err != nil {
		t.Fatal(err)
	}
	list := run(t, "tar", "-tzf", tar)
	for _, want := range []string{"moved/passwd", "moved/motd", ".wh.etc"} {
		if !strings.Contains(list, want) {
			t.Errorf("the diff lacks %s:\n%s", want, list)
		}
	}
}

// killWhileRunning kills the snapshotter under a running container: the container
// doesn't notice, and the next start adopts it.
func killWhileRunning(t *testing.T, c *harness.Containerd, bao *harness.Snapshotter, image string) {
	ctr(t, c, "run", "--detach", onBaoverlay, image, "survivor", "sh", "-c", "while sleep 0.01; do echo x >> /log; done")
	if err := bao.Kill(); err != nil {
		t.Fatal(err)
	}
	ctr(t, c, "task", "exec", "--exec-id", "1", "survivor", "sh", "-c", "echo written while it was dead > /kept")
	if err := bao.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := ctr(t, c, "task", "exec", "--exec-id", "2", "survivor", "cat", "/kept"); out != "written while it was dead\n" {
		t.Errorf("after a restart the container reads %q", out)
	}
	reconnect(t, c)
	if out := ctr(t, c, "run", "--rm", onBaoverlay, image, "after", "echo", "ok"); out != "ok\n" {
		t.Errorf("a container started after a restart printed %q", out)
	}
	ctr(t, c, "task", "rm", "--force", "survivor")
	ctr(t, c, "container", "rm", "survivor")
	if out := ctr(t, c, "snapshots", onBaoverlay, "ls"); strings.Contains(out, "survivor") {
		t.Errorf("the container's snapshot is still there:\n%s", out)
	}
}

// reconnect waits until containerd tries the socket again, after at most 3 s by its
// back-off.
func reconnect(t *testing.T, c *harness.Containerd) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		_, err := c.Ctr(t.Context(), "snapshots", onBaoverlay, "usage")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// mount runs the command that ctr snapshots prepare printed.
func mount(t *testing.T, command string) {
	t.Helper()
	run(t, "sh", "-c", command)
}

func unmount(t *testing.T, dir string) {
	t.Helper()
	run(t, "umount", dir)
}

// TestPoolOnDisk looks at what the pool is made of: its space is allocated and the loop
// device does direct I/O.
func TestPoolOnDisk(t *testing.T) {
	_, bao := setUp(t, harness.Versions[0])
	image := filepath.Join(bao.Config.Root, "pool.img")
	fi, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	if got := blocks(fi); got < fi.Size() {
		t.Errorf("the image has %d bytes and %d of them allocated", fi.Size(), got)
	}
	device := strings.TrimSpace(run(t, "findmnt", "-no", "SOURCE", filepath.Join(bao.Config.Root, "pool")))
	direct := fmt.Sprintf("/sys/block/%s/loop/dio", filepath.Base(device))
	if text, err := os.ReadFile(direct); err != nil || strings.TrimSpace(string(text)) != "1" {
		t.Errorf("%s is %q, %v; want direct I/O", direct, text, err)
	}
}
