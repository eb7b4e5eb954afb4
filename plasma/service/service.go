// Package service reads what a user says of a service: its containers, how many there may be,
// and its policy. It is TOML:
//
//	name = "counter"
//	image = "docker.io/library/counter:1"
//	command = ["/counter"]              # instead of the image's
//	env = ["GREETING=hello"]
//	policy = "counter.epl"              # beside this file
//	manifest = "counter.manifest.toml"  # of its types of actors: see package manifest
//	runtime = "auto"                    # FlashCube if containerd has it, else runc; or a runtime's name
//	snapshotter = "auto"                # baoverlay if containerd has it, else containerd's own
//	network = "host"                    # the node's; none; or a CNI network's name
//	relocate = false                    # start actors of lost nodes elsewhere, without their state
//	metrics = "127.0.0.1:9100/metrics"  # Prometheus text, in the container's network
//
//	[servers]                           # containers; the policy's limits win
//	min = 1
//	max = 8
//
//	[limit]                             # of a container, at first
//	cpu = 1.0
//	memory = "256MiB"
//
//	[most]                              # up to what it can be raised in place
//	cpu = 2.0
//	memory = "512MiB"
//
//	[[mounts]]
//	source = "/srv/data"
//	target = "/data"
//	readonly = true
//
//	[sidecar]                           # for applications that speak HTTP
//	port = 8080                         # of the application, in the container
//
//	[adopt]                             # take running containers instead, by label
//	labels = { app = "counter" }
//	namespace = "default"
//
// A server is called NAME-NUMBER; so is its container.
package service

import (
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/peregrine-dev/peregrine/plasma/model"
)

// Auto leaves it to what containerd has.
const Auto = "auto"

// The networks that need no configuration of CNI.
const (
	Host = "host" // the node's
	None = "none" // one of its own that leads nowhere
)

// Spec is a service as its file says. One that [Parse] gave is valid and is not changed.
type Spec struct {
	Name        string   `toml:"name"`
	Image       string   `toml:"image"`
	Command     []string `toml:"command"`
	Env         []string `toml:"env"`
	Policy      string   `toml:"policy"`
	Manifest    string   `toml:"manifest"`
	Runtime     string   `toml:"runtime"`
	Snapshotter string   `toml:"snapshotter"`
	Network     string   `toml:"network"`
	Relocate    bool     `toml:"relocate"`
	Metrics     string   `toml:"metrics"`
	Servers     Servers  `toml:"servers"`
	Limit       Amounts  `toml:"limit"`
	Most        Amounts  `toml:"most"`
	Mounts      []Mount  `toml:"mounts"`
	Sidecar     *Sidecar `toml:"sidecar"`
	Adopt       *Adopt   `toml:"adopt"`
}

// Servers bounds the number of containers.
type Servers struct {
	Min int `toml:"min"`
	Max int `toml:"max"`
}

// Amounts is what a container may use. Zero is no limit.
type Amounts struct {
	CPU    float64 `toml:"cpu"`    // cores
	Memory string  `toml:"memory"` // "256MiB"
}

// Resources gives the amounts of a valid service in the planner's units.
func (a Amounts) Resources() model.Resources {
	memory, err := units.RAMInBytes(a.Memory)
	if err != nil {
		memory = 0
	}
	return model.Resources{CPU: a.CPU, Mem: float64(memory)}
}

// Mount is a directory or file of the node in the containers.
type Mount struct {
	Source   string `toml:"source"`
	Target   string `toml:"target"`
	ReadOnly bool   `toml:"readonly"`
}

// Sidecar is for applications in any language, to which it speaks HTTP.
type Sidecar struct {
	Port uint16 `toml:"port"`
}

// Adopt is which running containers are a service's servers, whose number is not changed.
type Adopt struct {
	Labels    map[string]string `toml:"labels"`
	Namespace string            `toml:"namespace"`
}

// ServerID names a service's nth server, and its container.
func ServerID(service string, n int) string { return service + "-" + strconv.Itoa(n) }

// SplitServerID is the inverse of ServerID; ok is false for what names no server.
func SplitServerID(id string) (service string, n int, ok bool) {
	i := strings.LastIndexByte(id, '-')
	if i < 0 {
		return "", 0, false
	}
	n, err := strconv.Atoi(id[i+1:])
	if err != nil || n < 0 || ServerID(id[:i], n) != id || CheckName(id[:i]) != nil {
		return "", 0, false
	}
	return id[:i], n, true
}
