// Package dump lists kernel objects by netlink: again where the list changed while the kernel
// made it, and so may lack things that are there.
package dump

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
)

// tries is how often a list is asked for while it changes.
const tries = 100

// All is what list returns. It is ErrUnavailable if it never holds still.
func All[T any](list func() ([]T, error)) ([]T, error) {
	for range tries {
		all, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return nil, fmt.Errorf("the kernel's lists changed while they were read, %d times: %w", tries, errdefs.ErrUnavailable)
}
