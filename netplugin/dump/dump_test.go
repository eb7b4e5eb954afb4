package dump

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestAll(t *testing.T) {
	var calls int
	after := func(interrupted int, err error) func() ([]int, error) {
		calls = 0
		return func() ([]int, error) {
			if calls++; calls <= interrupted {
				return []int{0}, netlink.ErrDumpInterrupted
			}
			return []int{1, 2}, err
		}
	}
	if got, err := All(after(3, nil)); err != nil || len(got) != 2 || calls != 4 {
		t.Errorf("%v, %v, after %d calls", got, err, calls)
	}
	if _, err := All(after(tries, nil)); !errdefs.IsUnavailable(err) || calls != tries {
		t.Errorf("%v, after %d calls", err, calls)
	}
	if _, err := All(after(0, unix.EPERM)); !errors.Is(err, unix.EPERM) || calls != 1 {
		t.Errorf("%v, after %d calls", err, calls)
	}
}
