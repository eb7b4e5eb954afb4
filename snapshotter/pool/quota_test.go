package pool

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
)

func TestLimitWithoutQuotas(t *testing.T) {
	pl := newPlace(t)
	p := pl.open(t, small)
	host, err := OnHost(filepath.Join(pl.root, "host"), small)
	if err != nil {
		t.Fatal(err)
	}
	pools := []*Pool{host}
	if !p.quota {
		pools = append(pools, p)
	} else if QuotaSupported() != nil {
		t.Error("the pool claims quotas that this kernel doesn't have")
	}
	for _, p := range pools {
		if err := p.Limit(filepath.Join(p.Dir(), "1"), 1<<20); !errdefs.IsNotImplemented(err) {
			t.Errorf("%s: got %v, want ErrNotImplemented", p.Dir(), err)
		}
	}
}

// TestLimitWithQuotas bounds a directory, on kernels whose XFS has quotas.
func TestLimitWithQuotas(t *testing.T) {
	pooltest.NeedRoot(t)
	if err := QuotaSupported(); err != nil {
		t.Skip(err)
	}
	pl := newPlace(t)
	p := pl.open(t, small)
	dir := filepath.Join(p.Dir(), "7")
	if err := os.MkdirAll(filepath.Join(dir, "fs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := p.Limit(dir, uint64(miB)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "fs", "f"), make([]byte, 2*miB), 0o600); !errors.Is(err, unix.EDQUOT) && !errors.Is(err, unix.ENOSPC) {
		t.Errorf("2 MiB under a bound of one: %v", err)
	}
}
