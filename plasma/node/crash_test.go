package node

import (
	"strings"
	"testing"
	"time"
)

// TestCrashLoop: a server whose process ends again and again rests in between, longer each time,
// and it is said why.
func TestCrashLoop(t *testing.T) {
	l := newLab(t)
	l.apply()
	l.begin()
	l.server("s-1")
	began := time.Now()
	for i := range uint64(4) {
		l.registered("s-1", i+1)
		l.crash("s-1")
		l.until("it says so", func() bool {
			return strings.HasPrefix(l.node.Trouble()["s-1"], "its process has ended")
		})
	}
	l.registered("s-1", 5)
	if took := time.Since(began); took < 200*time.Millisecond+400*time.Millisecond+800*time.Millisecond+1600*time.Millisecond {
		t.Errorf("it was started four times more within %s", took)
	}
	l.until("all is well", func() bool { return len(l.node.Trouble()) == 0 })
}
