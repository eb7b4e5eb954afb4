// Package setup is what the bundle's front door needs of the snapshotter: the files
// that installing it writes, what keeps it from being removed, and the probes that say
// how well it does on a host.
package setup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/platforms"
	"github.com/pelletier/go-toml/v2"

	hostfiles "github.com/peregrine-dev/peregrine/config"
	"github.com/peregrine-dev/peregrine/snapshotter/config"
)

// Name is what containerd knows the snapshotter by.
const Name = "baoverlay"

const (
	mainConfigPath = "/etc/containerd/config.toml"
	dropInPath     = "/etc/containerd/conf.d/baoverlay.toml"
)

// Unpack is an entry of containerd's unpack_config: a snapshotter that the transfer
// service unpacks images into.
type Unpack struct {
	Platform    string `toml:"platform"`
	Snapshotter string `toml:"snapshotter"`
	Differ      string `toml:"differ,omitempty"`
	Optional    bool   `toml:"optional,omitempty"`

	ConfigType string   `toml:"config_type,omitempty"`
	LayerTypes []string `toml:"layer_types,omitempty"`
}

// DropIn returns containerd's configuration for the snapshotter that cfg describes.
// unpack is what containerd unpacks into now.
func DropIn(cfg config.Config, unpack []Unpack) ([]byte, error) {
	platform := platforms.Format(platforms.DefaultSpec())
	ours := Unpack{Platform: platform, Snapshotter: Name, Differ: "walking"}
	unpack = slices.DeleteFunc(slices.Clone(unpack), func(u Unpack) bool { return u.Snapshotter == Name })
	return hostfiles.Render(dropInPath, map[string]any{
		"Address": cfg.Address, "Root": cfg.Root, "Platform": platform,
		"Capabilities": capabilities(), "Unpack": append(unpack, ours),
	})
}

// capabilities are the stock overlay snapshotter's, whose code this is.
func capabilities() []string {
	capabilities := []string{snapshots.RebaseCap}
	if ok, err := overlayutils.SupportsIDMappedMounts(); err == nil && ok {
		capabilities = append(capabilities, "remap-ids", "only-remap-ids")
	}
	return capabilities
}

// DefaultUnpack is containerd's own list.
func DefaultUnpack() []Unpack {
	return []Unpack{{Platform: platforms.Format(platforms.DefaultSpec()), Snapshotter: "overlayfs", Differ: "walking"}}
}

// hostUnpack asks the host's containerd what it unpacks into; the default where there
// is no containerd or it says nothing.
func hostUnpack(ctx context.Context) ([]Unpack, error) {
	dump, err := configDump(ctx)
	if err != nil || dump == nil {
		return DefaultUnpack(), err
	}
	return unpackOf(dump)
}

// configDump is the configuration that the host's containerd runs with, nil where
// there is none.
func configDump(ctx context.Context) ([]byte, error) {
	containerd, err := exec.LookPath("containerd")
	if errors.Is(err, exec.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, containerd, "config", "dump")
	cmd.Stderr = os.Stderr
	dump, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("containerd config dump: %w", err)
	}
	return dump, nil
}

// unpackOf reads unpack_config out of a configuration dump.
func unpackOf(dump []byte) ([]Unpack, error) {
	var c struct {
		Plugins map[string]any `toml:"plugins"`
	}
	if err := toml.Unmarshal(dump, &c); err != nil {
		return nil, fmt.Errorf("read containerd's configuration: %w", err)
	}
	transfer, ok := c.Plugins["io.containerd.transfer.v1.local"].(map[string]any)
	if !ok || transfer["unpack_config"] == nil {
		return DefaultUnpack(), nil
	}
	text, err := toml.Marshal(map[string]any{"unpack_config": transfer["unpack_config"]})
	if err != nil {
		return nil, err
	}
	var list struct {
		Unpack []Unpack `toml:"unpack_config"`
	}
	if err := toml.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("read containerd's unpack_config: %w", err)
	}
	return list.Unpack, nil
}
