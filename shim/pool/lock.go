package pool

import (
	"fmt"
	"os"

	"github.com/peregrine-dev/peregrine/internal/daemon"
)

// Lock makes this process the only one that keeps pools below a root, which it makes and
// keeps others out of. See [daemon.Lock].
func Lock(root string) (*os.File, error) {
	lock, err := daemon.Lock(root)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(root, 0o700); err != nil {
		lock.Close()
		return nil, fmt.Errorf("keep others out of the root: %w", err)
	}
	return lock, nil
}
