// Package setup is what the bundle's front door needs of the runtime: the files that
// installing it writes, what keeps it from being removed, the probes that say how well it
// does on a host, and how its pool is.
package setup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	hostfiles "github.com/peregrine-dev/peregrine/config"
	"github.com/peregrine-dev/peregrine/internal/install"
	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/config"
	"github.com/peregrine-dev/peregrine/shim/pool"
)

const (
	// Name is what CRI knows the runtime by, and what its reports are headed with.
	Name = "flashcube"
	// Runtime is its name for containerd, which makes containerd-shim-flashcube-v1 of it.
	Runtime = "io.containerd.flashcube.v1"

	// profile is the only one there is.
	profile = "default"

	unitPath = "/etc/systemd/system/flashcubed.service"
)

// Plugin returns what installing the runtime means, with binaries in bin.
func Plugin(ctx context.Context, bin string) (install.Plugin, error) {
	// With one that can't be read the daemon would not start.
	if _, err := config.Load(config.DefaultPath, false); err != nil {
		return install.Plugin{}, err
	}
	defaults, err := config.Default().Write()
	if err != nil {
		return install.Plugin{}, err
	}
	inherited, err := containerdLimits(ctx)
	if err != nil {
		return install.Plugin{}, err
	}
	unit, err := hostfiles.Render(unitPath, map[string]any{"Bin": bin, "Limits": inherited.limits, "OOMScoreAdjust": inherited.oom})
	if err != nil {
		return install.Plugin{}, err
	}
	root := claim.Root()
	p := install.Plugin{
		Name: Name,
		Files: []install.File{
			{Path: config.DefaultPath, Text: defaults, Yours: true},
			{Path: unitPath, Text: unit},
		},
		Units:   []string{filepath.Base(unitPath)},
		Restart: []string{filepath.Base(unitPath)}, // parts and containers stay
		// The root may have been there before and hold what is not ours.
		State: []string{
			claim.Profile(root, profile), filepath.Join(root, pool.SocketName), filepath.Join(root, "lock"),
		},
		Dirs:    []string{root, filepath.Dir(config.DefaultPath)},
		InUse:   func(context.Context) ([]string, error) { return inUse(root) },
		Release: func(ctx context.Context) error { return release(ctx, root) },
	}
	dropIn, err := hostDropIn(ctx, bin)
	if err != nil {
		return install.Plugin{}, err
	}
	if dropIn != nil {
		p.Files = append(p.Files, install.File{Path: dropInPath, Text: dropIn})
	}
	return p, nil
}

// hostDropIn is the drop-in for the host's containerd, nil where there must be none: see
// merges. One that is there already is ours to remove, whatever containerd there is now.
func hostDropIn(ctx context.Context, bin string) ([]byte, error) {
	daemon := findContainerd(ctx)
	dropIn, err := DropIn(runtimePath(bin, daemon))
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(dropInPath); err == nil {
		return dropIn, nil
	}
	can, err := merges(ctx, daemon.path, dropIn)
	if err != nil && !errors.Is(err, errNoContainerd) {
		return nil, err
	}
	if !can {
		return nil, nil
	}
	return dropIn, nil
}

// inherited is what a container has from its shim, if nobody says otherwise.
type inherited struct {
	limits []string // lines of a unit
	oom    int
}

// containerdLimits are those of containerd's unit: a container must not find others in a
// part of the pool than in a shim that containerd started. Without such a unit they are
// as in the one that comes with containerd.
func containerdLimits(ctx context.Context) (inherited, error) {
	usual := inherited{[]string{"LimitNOFILE=infinity", "LimitNPROC=infinity", "LimitCORE=infinity"}, shimScore(-999)}
	names := []string{"LimitNOFILE", "LimitNPROC", "LimitCORE", "LimitMEMLOCK"}
	args := []string{"show", "containerd.service", "--property=LoadState,OOMScoreAdjust"}
	for _, name := range names {
		args = append(args, "--property="+name+","+name+"Soft")
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "systemctl", args...)
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		return usual, ctx.Err() // no systemd, or it doesn't run
	}
	values := map[string]string{}
	for lines := bufio.NewScanner(&out); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok {
			values[name] = value
		}
	}
	if values["LoadState"] != "loaded" {
		return usual, nil
	}
	score, err := strconv.Atoi(values["OOMScoreAdjust"])
	if err != nil {
		return usual, fmt.Errorf("read OOMScoreAdjust of containerd.service: %w", err)
	}
	found := inherited{oom: shimScore(score)}
	for _, name := range names {
		hard, soft := values[name], values[name+"Soft"]
		switch {
		case hard == "":
		case soft == "" || soft == hard:
			found.limits = append(found.limits, name+"="+hard)
		default:
			found.limits = append(found.limits, name+"="+soft+":"+hard)
		}
	}
	return found, nil
}

// shimScore is what containerd's shims have: they go before it does.
func shimScore(daemon int) int { return min(daemon+1, 1000) }

// inUse lists the containers that have a part, and those whose part died and that
// containerd has yet to delete, for which it executes the program.
func inUse(root string) ([]string, error) {
	claimed, err := parts(root, claim.Claimed)
	if err != nil {
		return nil, err
	}
	var users []string
	for _, p := range claimed {
		r, err := p.request()
		switch {
		case errors.Is(err, os.ErrNotExist) && !p.alive():
		case err != nil:
			users = append(users, "part "+p.dir)
		case p.alive():
			users = append(users, "container "+r.ID+" in namespace "+r.Namespace)
		case claim.Exists(filepath.Join(r.Bundle, claim.StateFile)):
			users = append(users, "container "+r.ID+" in namespace "+r.Namespace+", whose shim is dead")
		}
	}
	return users, nil
}

// release ends the parts that nobody has claimed. flashcubed doesn't run any more.
func release(ctx context.Context, root string) error {
	if _, err := os.Stat(root); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	lock, err := pool.Lock(root)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := drain(ctx, root); err != nil {
		return err
	}
	// Somebody may have been faster to claim one.
	users, err := inUse(root)
	if err == nil && len(users) > 0 {
		err = fmt.Errorf("%s is in use again by %s: %w", Name, strings.Join(users, ", "), errdefs.ErrFailedPrecondition)
	}
	return err
}
