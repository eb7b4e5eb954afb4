package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/plasma/host/failpoint"
)

// arm has the process killed at the step that a file says that is called like the server, now and
// whenever SIGUSR1 comes. The file is gone then, so that the next process goes on.
func arm(ctx context.Context, dir string) {
	file := filepath.Join(dir, os.Getenv("PLASMA_SERVER"))
	take := func() {
		text, err := os.ReadFile(file)
		if err != nil || os.Remove(file) != nil {
			return
		}
		failpoint.Arm(strings.TrimSpace(string(text)))
	}
	take()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGUSR1)
	go func() {
		for {
			select {
			case <-signals:
				take()
			case <-ctx.Done():
				return
			}
		}
	}()
}
