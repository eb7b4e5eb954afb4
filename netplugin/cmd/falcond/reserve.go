package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"github.com/peregrine-dev/peregrine/netplugin/agent"
	"github.com/peregrine-dev/peregrine/netplugin/priority"
)

// operator is who reserves by hand.
const operator = "operator"

func reserve() *cli.Command {
	return &cli.Command{
		Name: "reserve", Usage: "give a container that runs another class of packets", ArgsUsage: "CONTAINER",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "class", Usage: "high, normal or low", Required: true},
			&cli.DurationFlag{Name: "ttl", Usage: "how long, as 60s; until it is released or the container is gone if left out"},
		},
		Action: ofContainer(func(ctx context.Context, c *cli.Context, container string) error {
			class, err := priority.Parse(c.String("class"))
			if err != nil {
				return err
			}
			if c.IsSet("ttl") && c.Duration("ttl") <= 0 {
				return fmt.Errorf("--ttl %s has no time in it, want for example 60s: %w", c.Duration("ttl"), errdefs.ErrInvalidArgument)
			}
			_, err = agent.Reserve(ctx, c.Path("root"), agent.Reservation{ContainerID: container, Class: class, Owner: operator}, c.Duration("ttl"))
			return err
		}),
	}
}

func release() *cli.Command {
	return &cli.Command{
		Name: "release", Usage: "end what was reserved for a container", ArgsUsage: "CONTAINER",
		Flags: []cli.Flag{&cli.StringFlag{Name: "owner", Usage: "`WHO` reserved it, see falcond reservations", Value: operator}},
		Action: ofContainer(func(ctx context.Context, c *cli.Context, container string) error {
			ended, err := agent.Release(ctx, c.Path("root"), container, c.String("owner"))
			if err == nil && len(ended) == 0 {
				return fmt.Errorf("%s has reserved nothing for container %s, see falcond reservations: %w", c.String("owner"), container, errdefs.ErrNotFound)
			}
			return err
		}),
	}
}

func reservations(flags []cli.Flag) *cli.Command {
	return &cli.Command{
		Name: "reservations", Usage: "the classes that were reserved for containers", Flags: flags,
		Action: func(c *cli.Context) error {
			ctx, cancel := context.WithTimeout(c.Context, patience)
			defer cancel()
			list, err := agent.Reservations(ctx, c.Path("root"))
			if err != nil {
				return noAgent(err)
			}
			if c.Bool("json") {
				return json.NewEncoder(os.Stdout).Encode(list)
			}
			table := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
			printReservations(table, list, time.Now())
			return table.Flush()
		},
	}
}

func printReservations(w io.Writer, list []agent.Reservation, now time.Time) {
	fmt.Fprintln(w, "CONTAINER\tINTERFACE\tCLASS\tOWNER\tENDS IN")
	for _, r := range list {
		ifname, ends := "all", "never"
		if r.IfName != "" {
			ifname = r.IfName
		}
		if !r.Expires.IsZero() {
			ends = r.Expires.Sub(now).Round(time.Second).String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.ContainerID, ifname, r.Class, r.Owner, ends)
	}
}

// ofContainer runs do with the one argument that there must be.
func ofContainer(do func(ctx context.Context, c *cli.Context, container string) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.NArg() != 1 {
			return fmt.Errorf("want one container, by its ID in falcond endpoints, and got %d arguments: %w", c.NArg(), errdefs.ErrInvalidArgument)
		}
		ctx, cancel := context.WithTimeout(c.Context, patience)
		defer cancel()
		return noAgent(do(ctx, c, c.Args().First()))
	}
}

// noAgent says what to do about an agent that isn't there. What it refused says that itself.
func noAgent(err error) error {
	if err == nil || errdefs.IsInvalidArgument(err) || errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) {
		return err
	}
	return fmt.Errorf("%w: start falcond, or give its --root", err)
}
