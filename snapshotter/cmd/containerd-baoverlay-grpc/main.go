// Command containerd-baoverlay-grpc is the BAOverlay snapshotter: a proxy plugin of
// containerd. See docs/snapshotter.md.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/internal/daemon"
	"github.com/peregrine-dev/peregrine/internal/version"
	baoverlay "github.com/peregrine-dev/peregrine/snapshotter"
	"github.com/peregrine-dev/peregrine/snapshotter/config"
	"github.com/peregrine-dev/peregrine/snapshotter/pool"
	"github.com/peregrine-dev/peregrine/snapshotter/server"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := app().RunContext(ctx, os.Args)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "containerd-baoverlay-grpc:", err)
		os.Exit(1)
	}
}

func app() *cli.App {
	return &cli.App{
		Name:            "containerd-baoverlay-grpc",
		Usage:           "snapshots for containerd whose files are copied by the block",
		Version:         version.Version,
		HideHelpCommand: true,
		Flags: []cli.Flag{
			&cli.PathFlag{Name: "config", Usage: "configuration `FILE`", Value: config.DefaultPath},
			&cli.PathFlag{Name: "root", Usage: "`DIR`ectory for snapshots and the pool"},
			&cli.PathFlag{Name: "address", Usage: "unix `SOCKET` to serve on"},
			&cli.StringFlag{Name: "log-level", Usage: "trace, debug, info, warn or error"},
		},
		Action: withConfig(server.Serve),
		Commands: []*cli.Command{
			{Name: "mount", Usage: "make and mount the pool, as a unit ahead of the daemon does", Action: withConfig(mount)},
			{Name: "unmount", Usage: "unmount the pool, when no container runs on it", Action: withConfig(unmount)},
			{Name: "config", Usage: "look at the configuration", Subcommands: []*cli.Command{
				{Name: "default", Usage: "print the defaults", Action: printDefault},
				{Name: "check", Usage: "check the file and print what it amounts to", Action: withConfig(print)},
			}},
		},
	}
}

// withConfig runs fn on defaults, file and flags, in that order.
func withConfig(fn func(context.Context, config.Config) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.NArg() > 0 {
			return fmt.Errorf("unexpected argument %q: %w", c.Args().First(), errdefs.ErrInvalidArgument)
		}
		cfg, err := config.Load(c.Path("config"), c.IsSet("config"))
		if err != nil {
			return err
		}
		for name, value := range map[string]*string{"root": &cfg.Root, "address": &cfg.Address, "log-level": &cfg.LogLevel} {
			if c.IsSet(name) {
				*value = c.String(name)
			}
		}
		if err := cfg.Validate(); err != nil {
			return err
		}
		if err := log.SetLevel(cfg.LogLevel); err != nil {
			return err
		}
		return fn(c.Context, cfg)
	}
}

func mount(ctx context.Context, cfg config.Config) error {
	lock, err := daemon.Lock(cfg.Root)
	if err != nil {
		return err
	}
	defer lock.Close()
	_, err = server.Open(ctx, cfg)
	return err
}

func unmount(_ context.Context, cfg config.Config) error {
	lock, err := daemon.Lock(cfg.Root)
	if err != nil {
		return err
	}
	defer lock.Close()
	return pool.Unmount(baoverlay.PoolDir(cfg.Root))
}

func printDefault(*cli.Context) error { return print(context.Background(), config.Default()) }

func print(_ context.Context, cfg config.Config) error {
	text, err := cfg.Write()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(text)
	return err
}
