package setup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"

	"github.com/peregrine-dev/peregrine/internal/check"
	baoverlay "github.com/peregrine-dev/peregrine/snapshotter"
	"github.com/peregrine-dev/peregrine/snapshotter/config"
	"github.com/peregrine-dev/peregrine/snapshotter/pool"
)

// Check probes the host for the snapshotter. It leaves nothing behind.
func Check(ctx context.Context) ([]check.Result, error) {
	cfg, err := config.Load(config.DefaultPath, false)
	if err != nil {
		return []check.Result{{Plugin: Name, Probe: "configuration", Status: check.Missing, Detail: err.Error()}}, nil
	}
	// A root that is not there yet is judged by the file system it will be on.
	root, err := existing(cfg.Root)
	if err != nil {
		return nil, err
	}
	host, err := baoverlay.Probe(root)
	if err != nil {
		return nil, err
	}
	results := []check.Result{
		result("reflinks of the root's file system", host.Reflink, "works: "+root),
		result("pool in an image file", host.Pool, "XFS, loop devices and xfsprogs are there"),
		result("quotas (max-size label)", pool.QuotaSupported(), "the kernel's XFS has project quotas"),
		engine(cfg, host),
	}
	registered, err := Registered(ctx)
	switch {
	case err != nil:
		results = append(results, result("containerd", err, ""))
	case registered:
		results = append(results, result("containerd", nil, "knows the snapshotter"))
	default:
		results = append(results, result("containerd", errors.New("doesn't know the snapshotter; run peregrine install"), ""))
	}
	return results, nil
}

func result(probe string, err error, works string) check.Result {
	if err != nil {
		return check.Result{Plugin: Name, Probe: probe, Status: check.Missing, Detail: err.Error()}
	}
	return check.Result{Plugin: Name, Probe: probe, Status: check.OK, Detail: works}
}

// engine says which engine would be used.
func engine(cfg config.Config, host baoverlay.Host) check.Result {
	r := check.Result{Plugin: Name, Probe: "engine", Status: check.OK}
	choice, err := baoverlay.Choose(cfg.Engine, cfg.Pool.Device, host)
	switch {
	case err != nil:
		r.Status, r.Detail = check.Missing, err.Error()
	case choice.Engine == baoverlay.Overlay:
		r.Status, r.Detail = check.Limited, "overlay: the first write into a file copies all of it"
	default:
		r.Detail = string(choice.Engine)
	}
	return r
}

// existing is path, or the nearest directory above it that is there.
func existing(path string) (string, error) {
	for {
		_, err := os.Stat(path)
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return path, err
		}
		path = filepath.Dir(path)
	}
}

// Registered asks the host's containerd whether its configuration has the snapshotter.
func Registered(ctx context.Context) (bool, error) {
	dump, err := configDump(ctx)
	if err != nil {
		return false, err
	}
	if dump == nil {
		return false, errors.New("containerd is not on PATH")
	}
	var c struct {
		ProxyPlugins map[string]any `toml:"proxy_plugins"`
	}
	if err := toml.Unmarshal(dump, &c); err != nil {
		return false, fmt.Errorf("read containerd's configuration: %w", err)
	}
	_, ok := c.ProxyPlugins[Name]
	return ok, nil
}

// Advise tells what is left to do after the files are installed.
func Advise(ctx context.Context, out io.Writer) error {
	registered, err := Registered(ctx)
	switch {
	case err != nil:
		fmt.Fprintf(out, "note: could not ask containerd (%v); it has to import %s\n", err, dropInPath)
	case !registered:
		fmt.Fprintf(out, "note: containerd doesn't read %s; put this line at the top of /etc/containerd/config.toml:\n  imports = [%q]\n",
			dropInPath, filepath.Join(filepath.Dir(dropInPath), "*.toml"))
	}
	fmt.Fprintln(out, "restart containerd to load the snapshotter; use it by --snapshotter baoverlay")
	return nil
}
