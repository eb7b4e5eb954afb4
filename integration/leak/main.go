package leak

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/peregrine-dev/peregrine/integration/sandbox"
)

// containerd mounts from threads that it moves into a snapshot's directory and then
// ends. The main thread can't end and would keep that directory busy: it is kept for
// TestMain.
func init() { runtime.LockOSThread() }

// Main runs a package's tests in a sandbox and fails them when they left something of
// the kernel's or a goroutine behind. It is for TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }
func Main(m *testing.M) int {
	var before State
	if sandbox.Inside() {
		var err error
		if before, err = Look(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return sandbox.Main(m, func(code int) int {
		if code != 0 {
			return code // what failed may well have left something
		}
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "leaked:", err)
			return 1
		}
		more, err := Settle(before)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		for _, what := range more {
			fmt.Fprintln(os.Stderr, "leaked:", what)
		}
		return min(len(more), 1)
	})
}

// Settle is Since for now. It gives the kernel a moment: an unmounted file system's loop device, a killed
// process and its cgroup go a little later than the call that ended them returns.
func Settle(before State) ([]string, error) {
	deadline := time.Now().Add(5 * time.Second)
	for {
		now, err := Look()
		if err != nil {
			return nil, err
		}
		more := now.Since(before)
		if len(more) == 0 || time.Now().After(deadline) {
			return more, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Check fails tb when something that was not there before is there at the end of it,
// after tb's other clean-ups.
func Check(tb testing.TB) {
	tb.Helper()
	before, err := Look()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		more, err := Settle(before)
		if err != nil {
			tb.Error(err)
		}
		for _, what := range more {
			tb.Error("leaked: ", what)
		}
	})
}
