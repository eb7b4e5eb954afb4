package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/internal/netlab"
)

// Containerd is a private containerd.
type Containerd struct {
	*Process
	Version   string
	Address   string
	Namespace string // of the containers that Ctr and Client see
	// NS is the network namespace that it runs in; nil is the harness's. It may be set before
	// Start.
	NS *netlab.NS

	dir, path string
	env       []string
}

// StartContainerd runs a containerd of a line in Versions with everything of it in
// dir, which is on the host's disk. dropIns are files of conf.d by name; shims are those
// of other runtimes than its own.
func StartContainerd(ctx context.Context, cache, version, dir string, dropIns map[string][]byte, shims ...Shim) (*Containerd, error) {
	c, err := NewContainerd(cache, version, dir, dropIns, shims...)
	if err != nil {
		return nil, err
	}
	return c, c.Start(ctx)
}

// NewContainerd is StartContainerd without the start.
func NewContainerd(cache, version, dir string, dropIns map[string][]byte, shims ...Shim) (*Containerd, error) {
	path, err := stockPath(cache, version)
	if err != nil {
		return nil, err
	}
	var env []string
	for _, shim := range shims {
		if shim.Bin != "" {
			bin, err := filepath.Abs(shim.Bin)
			if err != nil {
				return nil, err
			}
			path += string(filepath.ListSeparator) + bin
		}
		env = append(env, shim.Env...)
	}
	c := &Containerd{
		Version:   version,
		Address:   filepath.Join(dir, "c.sock"),
		Namespace: namespaceOf(dir),
		dir:       dir, path: path, env: env,
	}
	if err := os.MkdirAll(filepath.Join(dir, "conf.d"), 0o700); err != nil {
		return nil, err
	}
	main := fmt.Sprintf(`version = 2
root = %q
state = %q
imports = [%q]
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
  address = %q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), filepath.Join(dir, "conf.d/*.toml"), c.Address)
	if err := os.WriteFile(c.config(), []byte(main), 0o600); err != nil {
		return nil, err
	}
	for name, text := range dropIns {
		if err := os.WriteFile(filepath.Join(dir, "conf.d", name), text, 0o600); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Start runs containerd, again after Stop or Kill.
func (c *Containerd) Start(ctx context.Context) (err error) {
	program, err := lookPath("containerd", c.path)
	if err != nil {
		return err
	}
	command := []string{program, "--config", c.config()}
	if c.NS != nil {
		command = append([]string{"nsenter", "--net=" + c.NS.Path(), "--"}, command...)
	}
	c.Process, err = start(filepath.Join(c.dir, "containerd.log"), c.path, c.env, command[0], command[1:]...)
	if err != nil {
		return err
	}
	c.Name = "containerd"
	err = c.ready(ctx, func(ctx context.Context) error {
		client, err := c.Client()
		if err != nil {
			return err
		}
		defer client.Close()
		_, err = client.Version(ctx)
		return err
	})
	if err != nil {
		return errors.Join(err, c.Kill())
	}
	return nil
}

func (c *Containerd) config() string { return filepath.Join(c.dir, "config.toml") }

// Client connects to containerd; the caller closes it.
func (c *Containerd) Client() (*containerd.Client, error) {
	return containerd.New(c.Address, containerd.WithDefaultNamespace(c.Namespace))
}

// CtrCommand is a run of this containerd's own ctr.
func (c *Containerd) CtrCommand(ctx context.Context, args ...string) (*exec.Cmd, error) {
	program, err := lookPath("ctr", c.path)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"--address", c.Address, "--namespace", c.Namespace}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+c.path)
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	return cmd, nil
}

// Ctr runs CtrCommand and returns its output; what it says of an error is in the error.
func (c *Containerd) Ctr(ctx context.Context, args ...string) (string, error) {
	cmd, err := c.CtrCommand(ctx, args...)
	if err != nil {
		return "", err
	}
	var out, diagnostics bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diagnostics
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(diagnostics.Bytes()))
	}
	return out.String(), nil
}

// Remove ends every container, stops containerd and takes away what it leaves outside
// its directory.
func (c *Containerd) Remove(ctx context.Context) error {
	return errors.Join(c.removeTasks(ctx), c.Stop(), unmountBelow(c.dir), removeCgroups(c.Namespace))
}

// removeTasks is RemoveContainers until no task is there any more: one whose client was killed
// while it was made comes, or goes, after that.
func (c *Containerd) removeTasks(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		if err := c.RemoveContainers(ctx); err != nil {
			return err
		}
		bundles, err := os.ReadDir(filepath.Join(c.dir, "state", "io.containerd.runtime.v2.task", c.Namespace))
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(bundles) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-c.Ended():
			return nil
		case <-ctx.Done():
			return fmt.Errorf("task %s does not end: %w", bundles[0].Name(), ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// RemoveContainers kills and deletes every container in the namespace.
func (c *Containerd) RemoveContainers(ctx context.Context) error {
	select {
	case <-c.Ended():
		return nil // then the sandbox takes them
	default:
	}
	client, err := c.Client()
	if err != nil {
		return err
	}
	defer client.Close()
	containers, err := client.Containers(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	var errs error
	for _, container := range containers {
		task, err := container.Task(ctx, nil)
		if err == nil {
			_, err = task.Delete(ctx, containerd.WithProcessKill)
		}
		if err != nil && !errdefs.IsNotFound(err) {
			errs = errors.Join(errs, fmt.Errorf("end container %s: %w", container.ID(), err))
		}
		if err := container.Delete(ctx, containerd.WithSnapshotCleanup); err != nil && !errdefs.IsNotFound(err) {
			errs = errors.Join(errs, fmt.Errorf("delete container %s: %w", container.ID(), err))
		}
	}
	return errs
}

// unmountBelow takes away mounts that containerd left in its directory.
func unmountBelow(dir string) error {
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(table)), "\n")
	var errs error
	for i := len(lines) - 1; i >= 0; i-- {
		fields := strings.Fields(lines[i])
		if len(fields) < 2 || !strings.HasPrefix(fields[1], filepath.Join(dir, "state")+"/") {
			continue
		}
		if err := unix.Unmount(fields[1], unix.UMOUNT_NOFOLLOW); err != nil {
			errs = errors.Join(errs, fmt.Errorf("unmount %s: %w", fields[1], err))
		}
	}
	return errs
}

// removeCgroups deletes the empty cgroups that runc makes for a namespace, in every
// hierarchy.
func removeCgroups(namespace string) error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*/" + namespace)
	if err != nil {
		return err
	}
	var errs error
	for _, root := range append(roots, "/sys/fs/cgroup/"+namespace) {
		var dirs []string
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		errs = errors.Join(errs, err)
		for i := len(dirs) - 1; i >= 0; i-- {
			if err := os.Remove(dirs[i]); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
				errs = errors.Join(errs, fmt.Errorf("remove cgroup: %w", err))
			}
		}
	}
	return errs
}

// lookPath is exec.LookPath for another PATH.
func lookPath(program, path string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, program)
		if fi, err := os.Stat(file); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s is not among the stock parts; run make stock: %w", program, errdefs.ErrNotFound)
}
