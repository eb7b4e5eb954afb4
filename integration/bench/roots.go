package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/sys/unix"
)

// roots makes writable roots of an image on one of containerd's snapshotters.
type roots struct {
	name    string
	client  *containerd.Client
	parent  string // chain ID of the image
	workDir string
}

func newRoots(ctx context.Context, client *containerd.Client, image, snapshotter, workDir string) (*roots, error) {
	img, err := client.GetImage(ctx, image)
	if err != nil {
		return nil, err
	}
	diffs, err := img.RootFS(ctx)
	if err != nil {
		return nil, err
	}
	return &roots{snapshotter, client, identity.ChainID(diffs).String(), workDir}, nil
}

// with mounts a fresh root, runs fn on it and takes it away again.
func (r *roots) with(ctx context.Context, fn func(root string) error) (err error) {
	sn := r.client.SnapshotService(r.name)
	const key = "bench"
	mounts, err := sn.Prepare(ctx, key, r.parent, snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "bench"}))
	if err != nil {
		return fmt.Errorf("prepare a root on %s: %w", r.name, err)
	}
	after := context.WithoutCancel(ctx)
	defer func() { err = errors.Join(err, sn.Remove(after, key), collect(after, r.client)) }()
	root := filepath.Join(r.workDir, "root")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	if err := mount.All(mounts, root); err != nil {
		return fmt.Errorf("mount a root on %s: %w", r.name, err)
	}
	defer func() { err = errors.Join(err, mount.UnmountAll(root, 0)) }()
	return fn(root)
}

// collect waits until containerd has deleted what was removed, so that it doesn't do so
// while something else is measured.
func collect(ctx context.Context, client *containerd.Client) error {
	m := client.LeasesService()
	lease, err := m.Create(ctx, leases.WithRandomID())
	if err != nil {
		return err
	}
	return m.Delete(ctx, lease, leases.SynchronousDelete)
}

// settle writes everything to the disk, so that one measurement doesn't pay for the
// one before.
func settle(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}
