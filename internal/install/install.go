// Package install puts the files of the bundle's plugins on a host and takes them
// away. What belongs to a plugin is the plugin's to say; this package plans the steps,
// prints them, and does them.
package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// File is a file on the host.
type File struct {
	Path string // absolute
	Text []byte
	// Link makes the file a symbolic link to this absolute path on the host; there is no
	// Text then. It is removed only while it points there.
	Link string
	// Yours marks a file that the operator edits: it is left alone when it is there,
	// and removed only while it is as it was written.
	Yours bool
}

// Plugin is what one plugin has on a host.
type Plugin struct {
	Name  string
	Files []File
	// Units are systemd units, in the order to start them; stopping goes backwards.
	Units []string
	// Restart are those of the units that take up a new binary or address by being
	// restarted, and that nothing running depends on.
	Restart []string
	// State are files and directories that go with the plugin, once nothing uses it.
	State []string
	// Dirs are directories that go when nothing is left in them.
	Dirs []string
	// InUse lists what depends on the plugin now; it must stay while there is any.
	InUse func(context.Context) ([]string, error)
	// Release gives up what the kernel holds for the plugin, after its units stopped.
	Release func(context.Context) error
}

// Step is one thing to do.
type Step struct {
	What string
	do   func(context.Context) error
}

// Plan lists the steps that install plugins below root, "/" on a real host.
func Plan(root string, plugins ...Plugin) []Step {
	var steps []Step
	var units, restart []string
	for _, p := range plugins {
		for _, f := range p.Files {
			if step, ok := write(filepath.Join(root, f.Path), f); ok {
				steps = append(steps, step)
			}
		}
		units = append(units, p.Units...)
		restart = append(restart, p.Restart...)
	}
	if hasSystemd(root) && len(units) > 0 {
		steps = append(steps,
			systemctl("daemon-reload"),
			systemctl(append([]string{"enable", "--now"}, units...)...))
		if len(restart) > 0 {
			steps = append(steps, systemctl(append([]string{"restart"}, restart...)...))
		}
	}
	return steps
}

// PlanRemoval lists the steps that take plugins away. It fails with
// ErrFailedPrecondition, and what is in the way, while anything uses one of them.
func PlanRemoval(ctx context.Context, root string, plugins ...Plugin) ([]Step, error) {
	var busy error
	for _, p := range plugins {
		if p.InUse == nil {
			continue
		}
		users, err := p.InUse(ctx)
		if err != nil {
			return nil, fmt.Errorf("see what uses %s: %w", p.Name, err)
		}
		if len(users) > 0 {
			busy = errors.Join(busy, fmt.Errorf("%s is in use; remove these first:\n  %s: %w",
				p.Name, strings.Join(users, "\n  "), errdefs.ErrFailedPrecondition))
		}
	}
	if busy != nil {
		return nil, busy
	}
	var steps []Step
	for _, p := range plugins {
		if hasSystemd(root) && len(p.Units) > 0 {
			steps = append(steps, systemctl(append([]string{"disable", "--now"}, p.Units...)...))
		}
		if p.Release != nil {
			steps = append(steps, Step{"release what the kernel holds for " + p.Name, p.Release})
		}
		for _, f := range p.Files {
			if step, ok := remove(filepath.Join(root, f.Path), f); ok {
				steps = append(steps, step)
			}
		}
		for _, path := range p.State {
			path := filepath.Join(root, path)
			if _, err := os.Lstat(path); err == nil {
				steps = append(steps, Step{"remove " + path, func(context.Context) error { return os.RemoveAll(path) }})
			}
		}
		for _, dir := range p.Dirs {
			dir := filepath.Join(root, dir)
			if _, err := os.Lstat(dir); err == nil {
				steps = append(steps, Step{"remove " + dir + " if it is empty", func(context.Context) error { return removeEmpty(dir) }})
			}
		}
	}
	if hasSystemd(root) {
		steps = append(steps, systemctl("daemon-reload"))
	}
	return steps, nil
}

// Do does the steps, telling out about each; with dry it only tells.
func Do(ctx context.Context, out io.Writer, steps []Step, dry bool) error {
	if len(steps) == 0 {
		fmt.Fprintln(out, "nothing to do")
	}
	for _, s := range steps {
		if dry {
			fmt.Fprintln(out, "would", s.What)
			continue
		}
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.What, err)
		}
		fmt.Fprintln(out, "done:", s.What)
	}
	return nil
}

func write(path string, f File) (Step, bool) {
	if f.Link != "" {
		return link(path, f.Link)
	}
	now, err := os.ReadFile(path)
	if err == nil && (f.Yours || bytes.Equal(now, f.Text)) {
		return Step{}, false
	}
	return Step{"write " + path, func(context.Context) error {
		return replace(path, func(unfinished string) error { return os.WriteFile(unfinished, f.Text, 0o644) })
	}}, true
}

func link(path, to string) (Step, bool) {
	if now, err := os.Readlink(path); err == nil && now == to {
		return Step{}, false
	}
	return Step{"link " + path + " to " + to, func(context.Context) error {
		return replace(path, func(unfinished string) error {
			// One of an installation that was interrupted.
			if err := os.Remove(unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return os.Symlink(to, unfinished)
		})
	}}, true
}

// replace puts what create makes in the place of path, all at once.
func replace(path string, create func(unfinished string) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	unfinished := path + ".new"
	if err := create(unfinished); err != nil {
		return errors.Join(err, os.Remove(unfinished))
	}
	return os.Rename(unfinished, path)
}

func remove(path string, f File) (Step, bool) {
	if f.Link != "" {
		return unlink(path, f.Link)
	}
	now, err := os.ReadFile(path)
	if err != nil {
		return Step{}, false
	}
	if f.Yours && !bytes.Equal(now, f.Text) {
		return Step{"leave " + path + ", which was edited", func(context.Context) error { return nil }}, true
	}
	return Step{"remove " + path, func(context.Context) error { return os.Remove(path) }}, true
}

func unlink(path, to string) (Step, bool) {
	if _, err := os.Lstat(path); err != nil {
		return Step{}, false
	}
	if now, err := os.Readlink(path); err != nil || now != to {
		return Step{"leave " + path + ", which is no link to " + to, func(context.Context) error { return nil }}, true
	}
	return Step{"remove " + path, func(context.Context) error { return os.Remove(path) }}, true
}

func removeEmpty(dir string) error {
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return err
	}
	return os.Remove(dir)
}

func systemctl(args ...string) Step {
	return Step{"systemctl " + strings.Join(args, " "), func(ctx context.Context) error {
		if out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
		}
		return nil
	}}
}

// hasSystemd asks what systemd's sd_booted(3) asks.
func hasSystemd(root string) bool {
	fi, err := os.Lstat("/run/systemd/system")
	return root == "/" && err == nil && fi.IsDir()
}
