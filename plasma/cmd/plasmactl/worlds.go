package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"github.com/peregrine-dev/peregrine/plasma/apps"
	"github.com/peregrine-dev/peregrine/plasma/world"
)

func worldsCommand() *cli.Command {
	return &cli.Command{
		Name: "worlds", Usage: "list the applications to try policies on, or print what one consists of",
		Action: listWorlds,
		Subcommands: []*cli.Command{
			{
				Name: "export", Usage: "print a world as TOML, as drawn with a seed", ArgsUsage: "NAME",
				Flags: []cli.Flag{
					&cli.Uint64Flag{Name: "seed", Usage: "what is drawn depends on `N`", Value: 1},
					&cli.BoolFlag{Name: "stationary", Usage: "the mean load all the time"},
				},
				Action: printWorld(exportWorld),
			},
			{
				Name: "policy", Usage: "print a world's policy", ArgsUsage: "NAME",
				Flags: []cli.Flag{languageFlag()},
				Action: printWorld(func(c *cli.Context, name string) ([]byte, error) {
					mode, err := language(c)
					if err != nil {
						return nil, err
					}
					return apps.Policy(name, mode)
				}),
			},
			{
				Name: "manifest", Usage: "print a world's types of actors, for vet", ArgsUsage: "NAME",
				Action: printWorld(func(_ *cli.Context, name string) ([]byte, error) { return apps.Manifest(name) }),
			},
			{
				Name: "readme", Usage: "print what a world models, and its sources", ArgsUsage: "NAME",
				Action: printWorld(func(_ *cli.Context, name string) ([]byte, error) { return apps.Readme(name) }),
			},
		},
	}
}

func listWorlds(c *cli.Context) error {
	if c.NArg() > 0 {
		return fmt.Errorf("there is no command worlds %s: use export, policy, manifest or readme: %w", c.Args().First(), errdefs.ErrInvalidArgument)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	for _, name := range apps.Names() {
		summary, err := apps.Summary(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%s\n", name, summary)
	}
	return w.Flush()
}

// printWorld prints what a function says of the world that is the command's only argument.
func printWorld(of func(*cli.Context, string) ([]byte, error)) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.NArg() != 1 {
			return fmt.Errorf("give the name of one world, after all flags: %w", errdefs.ErrInvalidArgument)
		}
		text, err := of(c, c.Args().First())
		if err != nil {
			return err
		}
		_, err = c.App.Writer.Write(text)
		return err
	}
}

func exportWorld(c *cli.Context, name string) ([]byte, error) {
	draw := apps.World
	if c.Bool("stationary") {
		draw = apps.Stationary
	}
	w, err := draw(name, c.Uint64("seed"))
	if err != nil {
		return nil, err
	}
	return world.Write(w)
}
