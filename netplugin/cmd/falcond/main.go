// Command falcond is the node agent of the network plugin falcon: it keeps this node's part
// of the overlay networks as it should be, and attaches containers. See docs/network.md.
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
	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/protocol"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := app().RunContext(ctx, os.Args)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "falcond:", err)
		os.Exit(1)
	}
}

func app() *cli.App {
	asJSON := []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "print JSON"}}
	return &cli.App{
		Name:            "falcond",
		Usage:           "overlay networks of containers on this node",
		Version:         version.Version,
		HideHelpCommand: true,
		Flags: []cli.Flag{
			&cli.PathFlag{Name: "config", Usage: "configuration `FILE`", Value: config.DefaultPath, EnvVars: []string{"FALCON_CONFIG"}},
			&cli.PathFlag{Name: "root", Usage: "`DIR`ectory for sockets and attachments", Value: protocol.Root, EnvVars: []string{"FALCON_ROOT"}},
			&cli.PathFlag{Name: "state", Usage: "`DIR`ectory for what outlives a reboot", Value: "/var/lib/falcon", EnvVars: []string{"FALCON_STATE"}},
			&cli.StringFlag{Name: "log-level", Usage: "trace, debug, info, warn or error"},
		},
		Action: withConfig(serve),
		Commands: []*cli.Command{
			{Name: "status", Usage: "how this node and its networks are", Flags: asJSON, Action: show(printStatus)},
			{Name: "endpoints", Usage: "the containers that are attached", Flags: asJSON, Action: show(printEndpoints)},
			{Name: "peers", Usage: "the other nodes", Flags: asJSON, Action: show(printPeers)},
			top(),
			{Name: "pairs", Usage: "what passed between containers", Flags: asJSON, Action: showPairs},
			reserve(), release(), reservations(asJSON),
			{Name: "leave", Usage: "take this node out of the networks, for good", Action: withConfig(leave)},
			{Name: "config", Usage: "look at the configuration", Subcommands: []*cli.Command{
				{Name: "default", Usage: "print the defaults", Action: printDefault},
				{Name: "check", Usage: "check the file and print what it amounts to", Action: withConfig(printConfig)},
			}},
			{Name: "cni", Usage: "do a DEL or GC of CNI without the agent; falcon executes it", Hidden: true, Action: withConfig(alone)},
		},
	}
}

// settings are what defaults, file and flags amount to.
type settings struct {
	config.Config
	root, state string
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
		return fn(c.Context, settings{cfg, c.Path("root"), c.Path("state")})
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
