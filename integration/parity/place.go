package parity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	snapshotter  = "overlayfs"
	baseSnapshot = "parity"
)

// NewRunner prepares a containerd for cases: the snapshot that all containers start from.
// dir is a directory that every user may enter; probe is the probe's file, which is copied
// there. busybox is a static busybox for the containers.
func NewRunner(ctx context.Context, client *containerd.Client, dir, probe, busybox string) (*Runner, error) {
	r := &Runner{client: client, dir: filepath.Join(dir, "places"), probe: filepath.Join(dir, "probe")}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return nil, err
	}
	if err := copyFile(probe, r.probe); err != nil {
		return nil, err
	}
	return r, r.prepare(ctx, busybox)
}

// prepare makes the snapshot.
func (r *Runner) prepare(ctx context.Context, busybox string) error {
	service := r.client.SnapshotService(snapshotter)
	label := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "true"})
	mounts, err := service.Prepare(ctx, baseSnapshot+"-active", "", label)
	if err != nil {
		return err
	}
	err = mount.WithTempMount(ctx, mounts, func(root string) error {
		return populate(root, r.probe, busybox)
	})
	if err != nil {
		return fmt.Errorf("fill the root file system: %w", err)
	}
	return service.Commit(ctx, baseSnapshot, baseSnapshot+"-active", label)
}

// links are symbolic links of the root file system, for destinations that lead through
// them.
var links = map[string]string{
	"abs":           "/real",
	"rel":           "real",
	"up":            "../../../real",
	"dangling":      "/nowhere/to/be/found",
	"loop":          "loop",
	"etc-link":      "/etc",
	"proc-link":     "/proc",
	"sys-link":      "/sys",
	"dev-link":      "/dev",
	"self-link":     "/proc/self",
	"out-link":      "../../../../../../etc",
	"file-link":     "/real/file",
	"real/inner":    "../etc",
	"real/absinner": "/etc/inner",
	"cwd-link":      "/desk",
	"fd-link":       "/proc/self/fd/7",
	"bin/linked":    "../probe",
}

// populate makes the files of the root file system.
func populate(root, probe, busybox string) error {
	for _, dir := range []string{
		"bin", "dev", "etc", "home", "proc", "sys", "tmp", "run", "real", "desk", "var/lib", "copy/sub",
		"private", "cg", "out", "mnt", "usr/bin",
	} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Chmod(root, 0o755), os.Chmod(filepath.Join(root, "tmp"), 0o1777),
		os.Chmod(filepath.Join(root, "private"), 0o700)); err != nil {
		return err
	}
	for file, text := range map[string]string{
		"etc/passwd":     "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n",
		"etc/group":      "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n",
		"etc/hostname":   "image\n",
		"real/file":      "real\n",
		"desk/file":      "work\n",
		"copy/one":       "one\n",
		"copy/sub/two":   "two\n",
		"private/secret": "secret\n",
		"bin/text":       "just text\n",
		"bin/script":     "#!/bin/sh\nexec /probe \"$@\"\n",
		"bin/broken":     "#!/no/such/interpreter\n",
		"bin/empty":      "",
	} {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(file, "bin/") {
			mode = 0o755
		}
		if err := os.WriteFile(filepath.Join(root, file), []byte(text), mode); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(root, "bin/plain"), []byte("#!/bin/sh\n"), 0o644); err != nil {
		return err
	}
	for link, target := range links {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			return err
		}
	}
	if err := errors.Join(copyFile(probe, filepath.Join(root, "probe")), copyFile(busybox, filepath.Join(root, "bin/busybox"))); err != nil {
		return err
	}
	for _, applet := range []string{"sh", "true", "cat", "ls", "sleep"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			return err
		}
	}
	// Programs with set-id bits, to see them without effect.
	suid := filepath.Join(root, "bin/suid")
	return errors.Join(copyFile(probe, suid), os.Chmod(suid, 0o4755))
}

// copyFile copies a program.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// id is the name of the case's containers.
func (c Case) id() string {
	words := strings.FieldsFunc(strings.ToLower(c.Name), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
	return "case-" + strings.Join(words, "-")
}

// place makes the directory of a run of a case. The caller calls end.
func (r *Runner) place(c Case) (_ *Place, err error) {
	p := &Place{ID: c.id(), Dir: filepath.Join(r.dir, c.id()), Probe: r.probe}
	if c.Joins {
		if p.holder, err = newHolder(r.probe); err != nil {
			return nil, err
		}
		p.Namespaces = p.holder.namespaces()
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.end())
		}
	}()
	if err := os.RemoveAll(p.Dir); err != nil {
		return nil, err
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(p.Dir, "dir"), 0o755), os.Mkdir(filepath.Join(p.Dir, "out"), 0o777)); err != nil {
		return nil, err
	}
	if err := errors.Join(
		os.Chmod(filepath.Join(p.Dir, "out"), 0o777),
		os.WriteFile(filepath.Join(p.Dir, "file"), []byte("from the host\n"), 0o644),
		os.WriteFile(filepath.Join(p.Dir, "dir", "file"), []byte("from the host\n"), 0o644),
	); err != nil {
		return nil, err
	}
	if c.Files != nil {
		if err := c.Files(p); err != nil {
			return nil, fmt.Errorf("%s: make files: %w", c.Name, err)
		}
	}
	return p, nil
}

// end stops what a place has running.
func (p *Place) end() error {
	if p.holder == nil {
		return nil
	}
	return p.holder.end()
}

// holder is a process with namespaces that containers join.
type holder struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

func newHolder(probe string) (*holder, error) {
	cmd := exec.Command(probe, "wait")
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWPID |
			unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP,
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a process with namespaces to join: %w", err)
	}
	return &holder{cmd, stdin}, nil
}

func (h *holder) pid() int { return h.cmd.Process.Pid }

func (h *holder) namespaces() map[specs.LinuxNamespaceType]string {
	paths := map[specs.LinuxNamespaceType]string{}
	for kind, file := range map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: "net", specs.UTSNamespace: "uts", specs.IPCNamespace: "ipc",
		specs.PIDNamespace: "pid", specs.MountNamespace: "mnt", specs.CgroupNamespace: "cgroup",
	} {
		paths[kind] = fmt.Sprintf("/proc/%d/ns/%s", h.pid(), file)
	}
	return paths
}

func (h *holder) end() error {
	if err := h.stdin.Close(); err != nil {
		return err
	}
	return h.cmd.Wait()
}
