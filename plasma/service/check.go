package service

import (
	"fmt"
	"maps"
	"math"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/docker/go-units"

	"github.com/peregrine-dev/peregrine/internal/tomlfile"
)

// What a service may have.
const (
	maxName    = 50 // NAME-NUMBER is also a hostname: 64 bytes
	maxServers = 10_000
	maxList    = 1000
	minCPU     = 0.01    // 1 ms in 100 ms, the least quota that the kernel takes
	maxCPU     = 1 << 10 // cores
	minMemory  = 6 << 20 // less, and no container starts
	maxErrors  = 50      // to find a mistake's place takes as long as to read the file
)

// The directories in containers that are not for mounts.
var reserved = []string{"/run/plasma", "/run/plasma-peers", "/run/plasma-sidecar", "/var/lib/plasma"}

// CheckName is an error, errdefs.ErrInvalidArgument, unless a service can have this name.
func CheckName(name string) error {
	if err := identifiers.Validate(name); err != nil || len(name) > maxName {
		return fmt.Errorf("%.60q names no service: use 1 to %d letters and digits, with single dots, dashes or underscores between them: %w",
			name, maxName, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checker finds what can't be in a service's file.
type checker struct {
	name string
	text []byte
	errs []*Error
}

// wrong notes a mistake at a key, as [tomlfile.Position] takes it.
func (c *checker) wrong(key, format string, args ...any) {
	if len(c.errs) == maxErrors {
		return
	}
	line, column := tomlfile.Position(c.text, key)
	c.errs = append(c.errs, &Error{c.name, line, column, key + ": " + fmt.Sprintf(format, args...)})
}

func (c *checker) check(s *Spec) {
	switch {
	case s.Name == "":
		c.wrong("name", `give the service a name, such as "counter"`)
	case CheckName(s.Name) != nil:
		c.wrong("name", "%.60q can't be: use at most %d letters and digits, with single dots, dashes or underscores between them", s.Name, maxName)
	}
	for key, file := range map[string]string{"policy": s.Policy, "manifest": s.Manifest} {
		if strings.ContainsRune(file, 0) {
			c.wrong(key, "a file's name has no zero byte")
		}
	}
	c.metrics(s.Metrics)
	c.amounts(s)
	if s.Adopt != nil {
		c.adopt(s)
		return
	}
	c.image(s)
	c.process(s)
	c.mounts(s.Mounts)
	if s.Servers.Min < 1 || s.Servers.Min > maxServers {
		c.wrong("servers.min", "%d servers can't be: want 1 to %d", s.Servers.Min, maxServers)
	}
	if s.Servers.Max < s.Servers.Min || s.Servers.Max > maxServers {
		c.wrong("servers.max", "%d servers can't be: want %d, the fewest, to %d", s.Servers.Max, s.Servers.Min, maxServers)
	}
}

// image checks what containerd is to run, and with what.
func (c *checker) image(s *Spec) {
	if ref, err := reference.Parse(s.Image); s.Image == "" || err != nil || ref.Object == "" || !strings.Contains(ref.Locator, "/") {
		c.wrong("image", "%q is no image: name its registry, repository and tag, as docker.io/library/counter:1 does", s.Image)
	}
	// A path would be that of a program, which only containerd's own configuration should name.
	if s.Runtime != Auto && (identifiers.Validate(s.Runtime) != nil || strings.Count(s.Runtime, ".") < 2) {
		c.wrong("runtime", "%q is no runtime: use %q, or a name such as io.containerd.runc.v2", s.Runtime, Auto)
	}
	if identifiers.Validate(s.Snapshotter) != nil {
		c.wrong("snapshotter", "%q is no snapshotter: use %q, or a name such as overlayfs", s.Snapshotter, Auto)
	}
	if utils.ValidateNetworkName(s.Network) != nil || len(s.Network) > maxName {
		c.wrong("network", "%q is no network: use %q, %q, or the name of a network of CNI", s.Network, Host, None)
	}
}

// process checks what runs in the containers.
func (c *checker) process(s *Spec) {
	if len(s.Command) > maxList || len(s.Env) > maxList {
		c.wrong("name", "command and env may have %d elements each", maxList)
	}
	if len(s.Command) > 0 && s.Command[0] == "" {
		c.wrong("command", "the first element names the program; leave command out for the image's")
	}
	if slices.ContainsFunc(s.Command, hasZero) {
		c.wrong("command", "arguments have no zero byte")
	}
	for _, e := range s.Env {
		key, _, ok := strings.Cut(e, "=")
		switch {
		case !ok || key == "" || hasZero(e):
			c.wrong("env", "%q sets no variable: write NAME=VALUE", e)
		case strings.HasPrefix(key, "PLASMA_"):
			c.wrong("env", "%s is set by the runtime: use a name that doesn't begin with PLASMA_", key)
		}
	}
	if s.Sidecar != nil && s.Sidecar.Port == 0 {
		c.wrong("sidecar.port", "give the port that the application listens on")
	}
}

func (c *checker) mounts(mounts []Mount) {
	if len(mounts) > maxList {
		c.wrong("mounts", "%d are too many, want at most %d", len(mounts), maxList)
		return
	}
	seen := map[string]bool{}
	for i, m := range mounts {
		key := fmt.Sprintf("mounts[%d]", i)
		if reason := absolute(m.Source); reason != "" {
			c.wrong(key+".source", "%q %s", m.Source, reason)
		}
		if reason := absolute(m.Target); reason != "" {
			c.wrong(key+".target", "%q %s", m.Target, reason)
			continue
		}
		target := path.Clean(m.Target)
		if target == "/" {
			c.wrong(key+".target", "the root is the image's: use a directory below it")
		}
		for _, dir := range reserved {
			if target == dir || strings.HasPrefix(target, dir+"/") {
				c.wrong(key+".target", "%s is the runtime's: use another directory", dir)
			}
		}
		if seen[target] {
			c.wrong(key+".target", "%s is the target of another mount", target)
		}
		seen[target] = true
	}
}

// absolute is what is wrong with a path, "" if nothing is.
func absolute(p string) string {
	switch {
	case !path.IsAbs(p):
		return "must begin with /"
	case slices.Contains(strings.Split(p, "/"), ".."):
		return `may not contain ".."`
	case hasZero(p):
		return "may not contain a zero byte"
	}
	return ""
}

func hasZero(s string) bool { return strings.ContainsRune(s, 0) }

// amounts checks what containers may use at first and at most.
func (c *checker) amounts(s *Spec) {
	for _, a := range []struct {
		key string
		Amounts
	}{{"limit", s.Limit}, {"most", s.Most}} {
		if a.CPU != 0 && !(a.CPU >= minCPU && a.CPU <= maxCPU) { // so that NaN isn't taken
			c.wrong(a.key+".cpu", "%v cores can't be: want %v to %v, or leave it out for no limit", a.CPU, minCPU, maxCPU)
		}
		if n, err := units.RAMInBytes(a.Memory); a.Memory != "" && (err != nil || n < minMemory || n == math.MaxInt64) {
			c.wrong(a.key+".memory", "%q can't be: want a size such as 256MiB, of 6MiB at least, or leave it out for no limit", a.Memory)
		}
	}
	limit, most := s.Limit.Resources(), s.Most.Resources()
	if most.CPU != 0 && (limit.CPU == 0 || most.CPU < limit.CPU) {
		c.wrong("most.cpu", "%v cores are what limit.cpu can be raised to: give a limit.cpu of at most that", most.CPU)
	}
	if most.Mem != 0 && (limit.Mem == 0 || most.Mem < limit.Mem) {
		c.wrong("most.memory", "%s is what limit.memory can be raised to: give a limit.memory of at most that", s.Most.Memory)
	}
}

func (c *checker) metrics(address string) {
	if address == "" {
		return
	}
	hostPort, _, _ := strings.Cut(address, "/")
	_, port, err := net.SplitHostPort(hostPort)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || strings.ContainsAny(address, " \x00") {
		c.wrong("metrics", "%q is no address: write HOST:PORT/PATH, as 127.0.0.1:9100/metrics", address)
	}
}

// adopt checks a service whose containers somebody else starts.
func (c *checker) adopt(s *Spec) {
	for key, set := range map[string]bool{
		"image": s.Image != "", "command": len(s.Command) > 0, "env": len(s.Env) > 0, "runtime": s.Runtime != "",
		"snapshotter": s.Snapshotter != "", "network": s.Network != "", "servers": s.Servers != Servers{},
		"mounts": len(s.Mounts) > 0, "sidecar": s.Sidecar != nil, "relocate": s.Relocate,
	} {
		if set {
			c.wrong(key, "containers that are adopted are not started: leave it out, or leave out [adopt]")
		}
	}
	if identifiers.Validate(s.Adopt.Namespace) != nil {
		c.wrong("adopt.namespace", "%q is no namespace of containerd", s.Adopt.Namespace)
	}
	if len(s.Adopt.Labels) == 0 || len(s.Adopt.Labels) > maxList {
		c.wrong("adopt.labels", `say by which labels the containers are known, as { app = "counter" }`)
	}
	for _, key := range slices.Sorted(maps.Keys(s.Adopt.Labels)) {
		if key == "" || strings.ContainsAny(key, "\"\\\x00") || hasZero(s.Adopt.Labels[key]) {
			c.wrong("adopt.labels", "%q is no label", key)
		}
	}
}
