// Package failpoint kills the process at a named step of a protocol, so that tests can check what
// is left. PLASMA_FAILPOINT=name kills it with SIGKILL the first time that it is there, name:n
// the n-th time. Without the variable a step costs one comparison.
package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// The steps at which a host can be killed.
const (
	// CommitBefore and CommitAfter are around the transaction that stores turns.
	CommitBefore = "commit-before"
	CommitAfter  = "commit-after"

	// Recover is when a host has registered and read the placement, RecoverPending when it has
	// resolved the moves that were under way, and RecoverDone before it serves.
	Recover        = "recover"
	RecoverPending = "recover-pending"
	RecoverDone    = "recover-done"

	// A move at its source: the target is prepared, the actor stands still, the target has
	// stored it, the placement has changed, the target was told, the copy is deleted.
	MovePrepared    = "move-prepared"
	MoveQuiet       = "move-quiet"
	MoveTransferred = "move-transferred"
	MoveCommitted   = "move-committed"
	MoveActivated   = "move-activated"
	MoveDeleted     = "move-deleted"

	// A move at its target.
	TargetPrepared   = "target-prepared"
	TargetStored     = "target-stored"
	TargetActivating = "target-activating"
	TargetActivated  = "target-activated"

	// OutboxAnswered is when a send was answered and the sender has not noted it.
	OutboxAnswered = "outbox-answered"
)

// Names is all steps.
var Names = []string{
	CommitBefore, CommitAfter, Recover, RecoverPending, RecoverDone, MovePrepared, MoveQuiet,
	MoveTransferred, MoveCommitted, MoveActivated, MoveDeleted, TargetPrepared, TargetStored,
	TargetActivating, TargetActivated, OutboxAnswered,
}

// point is a step at which the process is to be killed, when it has been there so often.
type point struct {
	name string
	left atomic.Int64
}

var armed atomic.Pointer[point]

func init() { Arm(os.Getenv("PLASMA_FAILPOINT")) }

// Arm has the process killed as if PLASMA_FAILPOINT had this value, counted from now on; "" is
// never.
func Arm(value string) {
	if value == "" {
		armed.Store(nil)
		return
	}
	name, count, _ := strings.Cut(value, ":")
	p := &point{name: name}
	p.left.Store(1)
	if n, err := strconv.Atoi(count); err == nil && n > 0 {
		p.left.Store(int64(n))
	}
	armed.Store(p)
}

// Hit is at a step.
func Hit(name string) {
	p := armed.Load()
	if p == nil || p.name != name || p.left.Add(-1) != 0 {
		return
	}
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	// The first process of a container can't be killed from within.
	unix.Exit(128 + int(unix.SIGKILL))
}
