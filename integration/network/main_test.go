package network

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
)

// apart is in the environment of a test that has a /var/lib of its own.
const apart = "PEREGRINE_TEST_APART"

// TestMain runs the tests where host-local, if a configuration doesn't say where, keeps its
// addresses in memory and not on the host.
func TestMain(m *testing.M) {
	if lacks, ok := os.LookupEnv(lacking); ok {
		if err := falcond(lacks); err != nil {
			fmt.Fprintln(os.Stderr, "falcond:", err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(apart) != "" {
		os.Exit(leaktest.Main(m))
	}
	script := `exec unshare --mount --propagation private sh -c 'mount -t tmpfs tmpfs /var/lib && exec "$0" "$@"' "$0" "$@"`
	err := unix.Exec("/bin/sh", append([]string{"sh", "-c", script}, os.Args...), append(os.Environ(), apart+"=1"))
	fmt.Fprintln(os.Stderr, "start in another mount namespace:", err)
	os.Exit(1)
}
