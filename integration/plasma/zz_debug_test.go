package plasma

import (
	"context"
	"testing"
	"time"
	"os"

	"golang.org/x/sys/unix"
)

func TestZZ(t *testing.T) {
	p, image, etcd := outside(t, 2)
	w := begin(t, p, image, "app", 3, "")
	ctx, stop := context.WithCancel(t.Context())
	moving := w.keepMoving(ctx, 4)
	defer func() { stop(); moving() }()
	etcd.Kill()
	sleep(t.Context(), 100*time.Millisecond)
	etcd.Restart()
	sleep(t.Context(), 4*time.Second)
	for _, n := range p.Nodes {
		n.Signal(unix.SIGQUIT)
	}
	sleep(t.Context(), time.Second)
	for _, n := range p.Nodes {
		text, _ := os.ReadFile(n.Log)
		t.Logf("%s", text)
	}
	t.Fail()
}
