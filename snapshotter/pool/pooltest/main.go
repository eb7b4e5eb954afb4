package pooltest

import (
	"runtime"
	"testing"
)

// containerd mounts from threads that it moves into the snapshots' directory and
// then ends. The main thread can't end and would keep that directory, and with it the
// pool, busy: it is kept for TestMain.
func init() { runtime.LockOSThread() }

// Main runs a package's tests.
func Main(m *testing.M) int { return m.Run() }
