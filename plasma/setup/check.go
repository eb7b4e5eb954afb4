package setup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/internal/check"
	"github.com/peregrine-dev/peregrine/plasma/config"
	"github.com/peregrine-dev/peregrine/plasma/driver"
	"github.com/peregrine-dev/peregrine/plasma/profile/cgroup"
)

// Check probes the host for plasmad: its programs, containerd and what containers get of it,
// cgroups, the disk, the network, the clock, and whether it runs. It leaves nothing behind.
func Check(ctx context.Context) ([]check.Result, error) {
	cfg, err := config.Load(config.DefaultPath, false)
	if err != nil {
		return []check.Result{result("configuration", check.Missing, err.Error())}, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	daemon := ask(ctx, socket())
	results := append([]check.Result{programs(filepath.Dir(self))}, parts(ctx, cfg)...)
	results = append(results, usage(), directory(root), clock())
	if cfg.TLS.Cert != "" {
		results = append(results, certificate(cfg))
	}
	if !daemon.Daemon {
		results = append(results, ports(cfg))
	}
	return append(results, answers(daemon)), nil
}

func result(probe string, s check.Status, detail string) check.Result {
	return check.Result{Plugin: Name, Probe: probe, Status: s, Detail: detail}
}

// programs looks for plasmad, and for what is put beside applications in other languages.
func programs(bin string) check.Result {
	for _, p := range []struct {
		name, without string
		otherwise     check.Status
	}{
		{program, "no service runs", check.Missing},
		{sidecar, "services with a sidecar can't be started", check.Limited},
	} {
		path := filepath.Join(bin, p.name)
		if err := unix.Access(path, unix.X_OK); err != nil {
			return result("programs", p.otherwise, fmt.Sprintf("%s: %v: %s; install the bundle again", path, err, p.without))
		}
	}
	return result("programs", check.OK, bin)
}

// parts asks containerd what services' containers get.
func parts(ctx context.Context, cfg config.Config) []check.Result {
	const probe = "containerd"
	found, err := probeContainerd(ctx, cfg)
	if err != nil {
		return []check.Result{result(probe, check.Missing, fmt.Sprintf("%s: %v: no server starts; those that run go on", cfg.Containerd, err))}
	}
	results := []check.Result{result(probe, check.OK, fmt.Sprintf("version %s; servers run by %s on %s, if their service doesn't say otherwise", found.Version, found.Runtime, found.Snapshotter))}
	for _, p := range []struct {
		name, without string
		there         bool
	}{
		{"FlashCube", "starting a server takes longer", slices.ContainsFunc(found.Runtimes, func(r string) bool { return strings.Contains(r, "flashcube") })},
		{"BAOverlay", "the first write into a large file of an image copies it", slices.Contains(found.Snapshotters, "baoverlay")},
		{"FALCON", "who sends how much to whom is not counted, and reserving the network has no effect", knock(ctx, cfg.Falcon.Socket) == nil},
	} {
		r := result("with "+p.name, check.OK, "is there")
		if !p.there {
			r.Detail = "is not there: " + p.without // fine without
		}
		results = append(results, r)
	}
	return results
}

func probeContainerd(ctx context.Context, cfg config.Config) (driver.Found, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	if err := knock(ctx, cfg.Containerd); err != nil {
		return driver.Found{}, inner(err)
	}
	client, err := containerd.New(cfg.Containerd, containerd.WithTimeout(patience))
	if err != nil {
		return driver.Found{}, err
	}
	defer client.Close()
	return driver.New(client, driver.Options{Namespace: cfg.Namespace}).Probe(ctx)
}

// inner is what the kernel said; which socket it was about is said elsewhere.
func inner(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// usage reads what a process uses, this one, as plasmad reads servers'.
func usage() check.Result {
	const probe, without = "cgroups", "what servers use isn't known: no rule on processor or memory holds"
	found, err := cgroup.Find()
	if err == nil {
		var c *cgroup.Container
		if c, err = found.Open(os.Getpid(), ""); err == nil {
			defer c.Close()
			_, err = c.Read()
		}
	}
	if err != nil {
		return result(probe, check.Limited, fmt.Sprintf("%v: %s", err, without))
	}
	return result(probe, check.OK, "what servers use is read from them")
}

// answers tells how plasmad is.
func answers(r Report) check.Result {
	if !r.Daemon {
		return result(program, check.Missing, r.Problem)
	}
	var problems []string
	for _, n := range r.Cluster.Nodes {
		if !n.Up {
			problems = append(problems, "node "+n.Name+" is down")
		}
	}
	for _, s := range r.Cluster.Services {
		for _, t := range s.Trouble {
			problems = append(problems, s.Name+": "+t)
		}
	}
	if r.Cluster.Leader == "" {
		problems = append(problems, "no node is the global manager")
	}
	if len(problems) > 0 {
		return result(program, check.Limited, strings.Join(problems, "; "))
	}
	return result(program, check.OK, fmt.Sprintf("runs; nodes: %d, services: %d", len(r.Cluster.Nodes), len(r.Cluster.Services)))
}
