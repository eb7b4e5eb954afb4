package sidecar

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// In the environment these have the test's binary be a sidecar, with this port and with the
// arguments as the application, or the application.
const (
	asSidecar     = "PEREGRINE_TEST_SIDECAR"
	asApplication = "PEREGRINE_TEST_APPLICATION"
)

func TestMain(m *testing.M) {
	if port, err := strconv.ParseUint(os.Getenv(asSidecar), 10, 16); err == nil {
		os.Unsetenv(asSidecar) // the application's is another
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, unix.SIGTERM)
		status, err := Run(context.Background(), Config{Port: uint16(port), Command: os.Args[1:], Listen: "127.0.0.1:0", Signals: signals})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
		os.Exit(status)
	}
	if os.Getenv(asApplication) != "" {
		fmt.Fprintln(os.Stderr, serveApplication())
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}
