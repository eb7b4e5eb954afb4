// Command flashcubed keeps parts of containers ready for the runtime
// io.containerd.flashcube.v1. Without it, and when it dies, containers start as well, only
// slower.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/internal/version"
	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/config"
	"github.com/peregrine-dev/peregrine/shim/pool/server"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := app().RunContext(ctx, os.Args)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "flashcubed:", err)
		os.Exit(1)
	}
}

func app() *cli.App {
	return &cli.App{
		Name:            "flashcubed",
		Usage:           "keep parts of containers ready",
		Version:         version.Version,
		HideHelpCommand: true,
		Flags: []cli.Flag{
			&cli.PathFlag{Name: "config", Usage: "configuration `FILE`", Value: config.DefaultPath},
			&cli.StringFlag{Name: "log-level", Usage: "trace, debug, info, warn or error"},
		},
		Action: withConfig(serve),
		Commands: []*cli.Command{
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
		if c.IsSet("log-level") {
			cfg.LogLevel = c.String("log-level")
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

func serve(ctx context.Context, cfg config.Config) error {
	shim, err := findShim()
	if err != nil {
		return err
	}
	return server.Serve(ctx, cfg, server.Options{
		Root: claim.Root(), Shim: shim, Init: filepath.Join(filepath.Dir(shim), claim.InitBinary),
	})
}

// findShim looks where the program that containerd executes looks: beside this one, then
// in PATH.
func findShim() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), claim.ShimBinary)
	if unix.Access(path, unix.X_OK) == nil {
		return path, nil
	}
	if path, err = exec.LookPath(claim.ShimBinary); err != nil {
		return "", fmt.Errorf("find %s: install it beside flashcubed: %w", claim.ShimBinary, err)
	}
	return filepath.Abs(path)
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
