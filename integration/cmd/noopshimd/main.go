// Command noopshimd is the one task service behind every containerd-shim-noop-v1. It
// serves on the socket that is its argument until SIGTERM.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/noopshim"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: noopshimd SOCKET")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	listener, err := noopshim.Listen(ctx, os.Args[1])
	if err == nil {
		err = noopshim.Serve(ctx, listener)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "noopshimd:", err)
		os.Exit(1)
	}
}
