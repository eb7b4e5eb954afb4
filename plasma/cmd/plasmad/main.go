// Command plasmad runs elasticity policies over the services of a containerd: it starts and ends
// their containers, and has their actors move. See docs/plasma/plasmad.md.
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

	"github.com/peregrine-dev/peregrine/internal/version"
	"github.com/peregrine-dev/peregrine/plasma/config"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := app().RunContext(ctx, os.Args)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "plasmad:", err)
		os.Exit(1)
	}
}

func app() *cli.App {
	return &cli.App{
		Name:            "plasmad",
		Usage:           "elasticity policies over services of containers",
		Version:         version.Version,
		HideHelpCommand: true,
		Flags: []cli.Flag{
			&cli.PathFlag{Name: "config", Usage: "configuration `FILE`", Value: config.DefaultPath, EnvVars: []string{"PLASMA_CONFIG"}},
			&cli.PathFlag{Name: "run", Usage: "`DIR`ectory for sockets", Value: "/run/plasma", EnvVars: []string{"PLASMA_RUN"}},
			&cli.PathFlag{Name: "root", Usage: "`DIR`ectory for what outlives a reboot", Value: "/var/lib/plasma", EnvVars: []string{"PLASMA_ROOT"}},
			&cli.StringFlag{Name: "log-level", Usage: "trace, debug, info, warn or error"},
		},
		Action: withConfig(serve),
		Commands: []*cli.Command{
			{Name: "config", Usage: "look at the configuration", Subcommands: []*cli.Command{
				{Name: "default", Usage: "print the defaults", Action: printDefault},
				{Name: "check", Usage: "check the file and print what it amounts to", Action: withConfig(printConfig)},
			}},
		},
	}
}

// settings are what defaults, file and flags amount to.
type settings struct {
	config.Config
	run, root string
}

// withConfig runs fn on defaults, file and flags, in that order.
func withConfig(fn func(context.Context, settings) error) cli.ActionFunc {
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
		if cfg.Node == "" {
			if cfg.Node, err = os.Hostname(); err != nil {
				return err
			}
		}
		if err := cfg.Validate(); err != nil {
			return err
		}
		if err := log.SetLevel(cfg.LogLevel); err != nil {
			return err
		}
		return fn(c.Context, settings{cfg, c.Path("run"), c.Path("root")})
	}
}

func printDefault(*cli.Context) error {
	return printConfig(context.Background(), settings{Config: config.Default()})
}

func printConfig(_ context.Context, s settings) error {
	text, err := s.Write()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(text)
	return err
}
