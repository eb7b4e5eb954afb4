// Command plasma-sidecar runs an application and hosts its actors: it stands before the
// application's command in a container. See docs/plasma/sidecar.md.
package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/signal"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/internal/version"
	"github.com/peregrine-dev/peregrine/plasma/sidecar"
)

func main() {
	if err := app().Run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "plasma-sidecar:", err)
		os.Exit(1)
	}
}

func app() *cli.App {
	return &cli.App{
		Name:            "plasma-sidecar",
		Usage:           "host the actors of an application that speaks HTTP",
		ArgsUsage:       "-- COMMAND [ARGUMENT...]",
		Version:         version.Version,
		HideHelpCommand: true,
		Flags: []cli.Flag{
			&cli.UintFlag{Name: "port", Usage: "`PORT` that the application listens on", Required: true},
			&cli.StringFlag{Name: "listen", Usage: "`ADDRESS` that the application reaches the sidecar at", Value: sidecar.DefaultListen},
		},
		Action: run,
	}
}

func run(c *cli.Context) error {
	if c.Uint("port") > math.MaxUint16 {
		return fmt.Errorf("there is no port %d: %w", c.Uint("port"), errdefs.ErrInvalidArgument)
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	status, err := sidecar.Run(context.Background(), sidecar.Config{
		Port: uint16(c.Uint("port")), Command: c.Args().Slice(), Listen: c.String("listen"), Signals: signals,
	})
	if err != nil {
		return err
	}
	os.Exit(status)
	return nil
}
