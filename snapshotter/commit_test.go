package baoverlay

import (
	"errors"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestCommitSyncsFirst(t *testing.T) {
	sn, space := newFake(t)
	prepare(t, sn, "a", "")
	space.calls = nil
	space.onSync = func() {
		if _, err := sn.Stat(t.Context(), "layer"); !errdefs.IsNotFound(err) {
			t.Errorf("the layer is there before it is on the disk: %v", err)
		}
	}
	commit(t, sn, "layer", "a")
	if !slices.Equal(space.calls, []string{"sync"}) {
		t.Errorf("asked for %q", space.calls)
	}
	if got := names(t, sn); !slices.Equal(got, []string{"layer"}) {
		t.Errorf("there are snapshots %q", got)
	}
}

func TestCommitOfWhatDidNotReachTheDisk(t *testing.T) {
	sn, space := newFake(t)
	prepare(t, sn, "a", "")
	space.sync = unix.EIO
	if err := sn.Commit(t.Context(), "layer", "a"); !errors.Is(err, unix.EIO) {
		t.Errorf("got %v, want EIO", err)
	}
	if info, err := sn.Stat(t.Context(), "a"); err != nil || info.Kind != snapshots.KindActive {
		t.Errorf("the snapshot is %+v, %v; want it active", info, err)
	}
}

// TestCommitOfAnother removes a snapshot while it is committed and makes one of the
// same name.
func TestCommitOfAnother(t *testing.T) {
	sn, space := newFake(t)
	prepare(t, sn, "a", "")
	space.onSync = func() {
		if err := sn.Remove(t.Context(), "a"); err != nil {
			t.Error(err)
		}
		prepare(t, sn, "a", "")
	}
	if err := sn.Commit(t.Context(), "layer", "a"); !errdefs.IsAborted(err) {
		t.Errorf("got %v, want ErrAborted", err)
	}
	if got := names(t, sn); !slices.Equal(got, []string{"a"}) {
		t.Errorf("there are snapshots %q", got)
	}
}

func TestCommitErrors(t *testing.T) {
	sn, _ := newFake(t)
	prepare(t, sn, "a", "")
	commit(t, sn, "layer", "a")
	prepare(t, sn, "b", "layer")
	if err := sn.Commit(t.Context(), "layer", "b"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a name twice: %v", err)
	}
	if err := sn.Commit(t.Context(), "x", "none"); !errdefs.IsNotFound(err) {
		t.Errorf("no snapshot: %v", err)
	}
	if err := sn.Commit(t.Context(), "x", "layer"); err == nil {
		t.Error("committed a layer")
	}
}
