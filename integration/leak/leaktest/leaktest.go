// Package leaktest runs tests in a sandbox and fails them when they leave something of
// the kernel's behind.
package leaktest

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/peregrine-dev/peregrine/integration/leak"
	"github.com/peregrine-dev/peregrine/integration/sandbox"
)

// containerd mounts from threads that it moves into a snapshot's directory and then
// ends. The main thread can't end and would keep that directory busy: it is kept for
// TestMain.
func init() { runtime.LockOSThread() }

// Main runs a package's tests in a sandbox and fails them when they left something of
// the kernel's or a goroutine behind. Without root it runs them where they are. It is for
// TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(leaktest.Main(m)) }
func Main(m *testing.M) int {
	if os.Getuid() != 0 {
		return m.Run()
	}
	code, done, err := sandbox.Run(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		return 1
	}
	if done {
		return code
	}
	return inside(m)
}

func inside(m *testing.M) int {
	before, err := leak.Look()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if code := m.Run(); code != 0 {
		return code // what failed may well have left something
	}
	if err := goroutines(); err != nil {
		fmt.Fprintln(os.Stderr, "leaked:", err)
		return 1
	}
	more, err := leak.Settle(before)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, what := range more {
		fmt.Fprintln(os.Stderr, "leaked:", what)
	}
	return min(len(more), 1)
}

// goroutines is an error if some stay. Where others keep the processors busy, they may
// take longer to end than goleak waits.
func goroutines() error {
	for end := time.Now().Add(time.Minute); ; {
		err := goleak.Find()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// Check fails tb when something that was not there before is there at the end of it,
// after tb's other clean-ups.
func Check(tb testing.TB) {
	tb.Helper()
	before, err := leak.Look()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		more, err := leak.Settle(before)
		if err != nil {
			tb.Error(err)
		}
		for _, what := range more {
			tb.Error("leaked: ", what)
		}
	})
}
