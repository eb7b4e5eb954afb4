package host_test

import (
	"os"
	"testing"

	"github.com/containerd/log"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("HOST_TEST_ROOT"); dir != "" {
		childMain(dir)
		return
	}
	// Hosts log what these tests do to them.
	if err := log.SetLevel("panic"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}
