package driver

import (
	"context"
	"fmt"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
)

// hosts is where containerd's users say how registries are reached.
const hosts = "/etc/containerd/certs.d"

// image gives an image that is unpacked on a snapshotter; it is pulled if it is missing.
func (d *Driver) image(ctx context.Context, ref, snapshotter string) (containerd.Image, error) {
	// Servers that start at the same time don't fetch the same layers.
	unlock, err := d.locks.lock(ctx, "image "+ref)
	if err != nil {
		return nil, err
	}
	defer unlock()
	image, err := d.client.GetImage(ctx, ref)
	if errdefs.IsNotFound(err) {
		resolver := docker.NewResolver(docker.ResolverOptions{
			Hosts: config.ConfigureHosts(ctx, config.HostOptions{HostDir: config.HostDirFromRoot(hosts)}),
		})
		image, err = d.client.Pull(ctx, ref, containerd.WithPullUnpack, containerd.WithPullSnapshotter(snapshotter), containerd.WithResolver(resolver))
		if err != nil {
			return nil, fmt.Errorf("pull %s: %w", ref, err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("look for image %s: %w", ref, err)
	}
	switch unpacked, err := image.IsUnpacked(ctx, snapshotter); {
	case err != nil:
		return nil, fmt.Errorf("look for image %s on snapshotter %s: %w", ref, snapshotter, err)
	case unpacked:
		return image, nil
	}
	if err := image.Unpack(ctx, snapshotter); err != nil {
		return nil, fmt.Errorf("unpack %s on snapshotter %s: %w", ref, snapshotter, err)
	}
	return image, nil
}
