package driver

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/service"
)

// Where a server finds what is its, in its container.
const (
	insideRun     = "/run/plasma"
	insidePeers   = "/run/plasma-peers"
	insideState   = "/var/lib/plasma"
	insideSidecar = "/run/plasma-sidecar"
)

// shape makes of a specification, that has the image's settings, the server's. etc are files of
// the node that its container is to have.
func (d *Driver) shape(spec *oci.Spec, s Server, a attachment, etc []string) error {
	args := spec.Process.Args
	if len(s.Service.Command) > 0 {
		args = s.Service.Command
	}
	if len(args) == 0 {
		return fmt.Errorf("image %s has no command: give the service one", s.Service.Image)
	}
	dirs := d.dirs(s.ID)
	var mounts []specs.Mount
	for _, m := range s.Service.Mounts {
		mounts = append(mounts, bind(m.Source, m.Target, m.ReadOnly))
	}
	for _, file := range etc {
		mounts = append(mounts, bind(file, file, true))
	}
	// The last ones, so that others can't hide them.
	mounts = append(mounts, bind(dirs.run, insideRun, false), bind(dirs.peers, insidePeers, false), bind(dirs.state, insideState, false))
	if s.Service.Sidecar != nil {
		mounts = append(mounts, bind(d.o.Sidecar, insideSidecar, true))
		args = append([]string{insideSidecar, "--port", fmt.Sprint(s.Service.Sidecar.Port), "--"}, args...)
	}
	spec.Mounts = append(spec.Mounts, mounts...)
	spec.Process.Args = slices.Clone(args)
	spec.Process.Env = environment(spec.Process.Env, s.Service.Env, d.variables(s, a))
	// Those of containerd: a thousand files are few for a host of actors, and to raise a limit
	// takes a capability.
	spec.Process.Rlimits = nil
	spec.Hostname = s.ID
	limit(spec, s.Limit)
	d.enter(spec, s, a)
	return nil
}

// enter puts the container into its network.
func (d *Driver) enter(spec *oci.Spec, s Server, a attachment) {
	network := func(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace }
	switch {
	case s.Service.Network == service.Host:
		spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, network)
	case a.netns != "":
		spec.Linux.Namespaces = append(slices.DeleteFunc(spec.Linux.Namespaces, network),
			specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: a.netns})
	}
}

func bind(source, target string, readOnly bool) specs.Mount {
	m := specs.Mount{Source: filepath.Clean(source), Destination: filepath.Clean(target), Type: "bind", Options: []string{"rbind", "rw"}}
	if readOnly {
		m.Options[1] = "ro"
	}
	return m
}

// variables are what tells a server where it is.
func (d *Driver) variables(s Server, a attachment) []string {
	v := []string{
		"PLASMA_SERVICE=" + s.Service.Name,
		"PLASMA_SERVER=" + s.ID,
		"PLASMA_AGENT=" + insideRun + "/agent.sock",
		"PLASMA_CONTROL=" + insideRun + "/host.sock",
		"PLASMA_PEERS=" + insidePeers,
		"PLASMA_STATE=" + insideState,
	}
	switch {
	case a.address.IsValid():
		v = append(v, "PLASMA_ADDRESS="+a.address.String())
	case s.Service.Network == service.Host && d.o.Address.IsValid():
		v = append(v, "PLASMA_ADDRESS="+d.o.Address.String())
	}
	return v
}

// environment is one in which the later variables replace the earlier.
func environment(all ...[]string) []string {
	var result []string
	at := map[string]int{}
	for _, variable := range slices.Concat(all...) {
		name, _, _ := strings.Cut(variable, "=")
		if i, ok := at[name]; ok {
			result[i] = variable
			continue
		}
		at[name] = len(result)
		result = append(result, variable)
	}
	return result
}

// limit bounds what a container uses from its start.
func limit(spec *oci.Spec, r model.Resources) {
	if spec.Linux.Resources == nil {
		spec.Linux.Resources = &specs.LinuxResources{}
	}
	update := resources(r)
	if r.CPU > 0 {
		spec.Linux.Resources.CPU = update.CPU
	}
	if r.Mem > 0 {
		spec.Linux.Resources.Memory = update.Memory
	}
}

// What the kernel counts CPU in.
const (
	period    = 100_000 // µs
	minQuota  = 1_000   // µs
	perCore   = 1024    // shares
	minShares = 2
	maxShares = 1 << 18
)

// resources are amounts in the kernel's terms: zero is no limit.
func resources(r model.Resources) *specs.LinuxResources {
	cpu := &specs.LinuxCPU{Quota: new(int64(-1)), Period: new(uint64(period)), Shares: new(uint64(perCore))}
	if r.CPU > 0 {
		*cpu.Quota = max(minQuota, int64(math.Round(r.CPU*period)))
		*cpu.Shares = min(maxShares, max(minShares, uint64(math.Round(r.CPU*perCore))))
	}
	memory := &specs.LinuxMemory{Limit: new(int64(-1))}
	if r.Mem > 0 {
		*memory.Limit = int64(r.Mem)
	}
	return &specs.LinuxResources{CPU: cpu, Memory: memory}
}
