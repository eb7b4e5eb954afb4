package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/status"
)

func deleteCommand() *cli.Command {
	return &cli.Command{
		Name:      "delete",
		Usage:     "end a service and its containers",
		ArgsUsage: "SERVICE",
		Description: "What its actors have stored stays on the nodes' disks, unless --state is given; but a service that is applied\nagain begins anew.\n" +
			"It asks first.",
		Flags: []cli.Flag{
			socketFlag(),
			&cli.BoolFlag{Name: "state", Usage: "delete what its actors have stored, too"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "don't ask"},
		},
		Action: remove,
	}
}

func remove(c *cli.Context) error {
	if err := named(c, 1); err != nil {
		return err
	}
	name := c.Args().First()
	return ask(c, func(ctx context.Context, cluster api.ClusterClient) error {
		if !c.Bool("yes") {
			now, err := fetch(ctx, cluster, name)
			if err != nil {
				return err
			}
			if err := sure(c, now); err != nil {
				return err
			}
		}
		_, err := cluster.Delete(ctx, &api.DeleteRequest{Service: name, State: c.Bool("state")})
		return err
	})
}

// sure asks whether a service is to be deleted, and gives an error if it isn't.
func sure(c *cli.Context, now *status.Cluster) error {
	for _, s := range now.Services {
		what := "what its actors have stored stays on disk, but no service finds it again"
		if c.Bool("state") {
			what = "what its actors have stored is LOST"
		}
		fmt.Fprintf(c.App.ErrWriter, "Delete %s with %d servers and %d actors? %s. [y/N] ", plain(s.Name), len(s.Servers), s.Total, what)
	}
	// An answer is short, and its end may be missing.
	line, err := bufio.NewReader(io.LimitReader(c.App.Reader, 80)).ReadString('\n')
	if err != nil && err != io.EOF {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return cli.Exit("nothing was deleted: answer y, or give --yes", codeRefused)
}

func moveCommand() *cli.Command {
	return &cli.Command{
		Name:        "move",
		Usage:       "move an actor to a server",
		ArgsUsage:   "SERVICE TYPE/KEY SERVER",
		Description: "It ends when the move has begun; `top` and `status` show what comes of it. A policy may move the actor on.",
		Flags:       []cli.Flag{socketFlag()},
		Action: func(c *cli.Context) error {
			if err := named(c, 3); err != nil {
				return err
			}
			a, err := actorOf(c.Args().Get(1))
			if err != nil {
				return err
			}
			return ask(c, func(ctx context.Context, cluster api.ClusterClient) error {
				_, err := cluster.Move(ctx, &api.UserMoveRequest{Service: c.Args().Get(0), Actor: a, To: c.Args().Get(2)})
				return err
			})
		},
	}
}

func drainCommand() *cli.Command {
	return &cli.Command{
		Name:        "drain",
		Usage:       "take a server out of service: its actors move, then it ends",
		ArgsUsage:   "SERVICE SERVER",
		Description: "It ends when the drain has begun; `status` shows how far it is, and what it waits for.",
		Flags:       []cli.Flag{socketFlag()},
		Action: func(c *cli.Context) error {
			if err := named(c, 2); err != nil {
				return err
			}
			return ask(c, func(ctx context.Context, cluster api.ClusterClient) error {
				_, err := cluster.Drain(ctx, &api.DrainRequest{Service: c.Args().Get(0), Server: c.Args().Get(1)})
				return err
			})
		},
	}
}

func pauseCommand() *cli.Command {
	return pausing("pause", "carry out no plans for a service, until it is resumed", true)
}

func resumeCommand() *cli.Command {
	return pausing("resume", "carry out plans for a service again", false)
}

func pausing(name, usage string, paused bool) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: "SERVICE", Flags: []cli.Flag{socketFlag()},
		Action: func(c *cli.Context) error {
			if err := named(c, 1); err != nil {
				return err
			}
			return ask(c, func(ctx context.Context, cluster api.ClusterClient) error {
				_, err := cluster.Pause(ctx, &api.PauseRequest{Service: c.Args().First(), Paused: paused})
				return err
			})
		},
	}
}

func callCommand() *cli.Command {
	return &cli.Command{
		Name:      "call",
		Usage:     "call a function of an actor, and print what it answers",
		ArgsUsage: "SERVICE TYPE/KEY FUNCTION [JSON]",
		Description: "- instead of JSON is standard input, which is sent as it is. A call that was interrupted may have been made.\n" +
			"It ends with 1 if the function gives an error.",
		Flags:  []cli.Flag{socketFlag()},
		Action: call,
	}
}

func call(c *cli.Context) error {
	if c.NArg() != 4 {
		if err := named(c, 3); err != nil {
			return err
		}
	}
	a, err := actorOf(c.Args().Get(1))
	if err != nil {
		return err
	}
	body := []byte(c.Args().Get(3))
	switch {
	case string(body) == "-":
		if _, body, err = read(c, "-"); err != nil {
			return err
		}
	case len(body) > 0 && !json.Valid(body):
		return fmt.Errorf("%q is not JSON: quote texts as '\"text\"', or send it with - from standard input: %w", body, errdefs.ErrInvalidArgument)
	}
	return ask(c, func(ctx context.Context, cluster api.ClusterClient) error {
		answer, err := cluster.Call(ctx, &api.CallRequest{Service: c.Args().Get(0), To: a, Function: c.Args().Get(2), Body: body})
		if err != nil {
			return err
		}
		if answer.GetError() != "" {
			return cli.Exit(fmt.Sprintf("%s of %s: %s", c.Args().Get(2), c.Args().Get(1), plain(answer.GetError())), codeRefused)
		}
		out := answer.GetBody()
		if n := len(out); n > 0 && out[n-1] != '\n' {
			out = append(out, '\n')
		}
		_, err = c.App.Writer.Write(out)
		return err
	})
}

// actorOf reads TYPE/KEY. Keys may have slashes.
func actorOf(name string) (*api.Actor, error) {
	kind, key, ok := strings.Cut(name, "/")
	if !ok || kind == "" || key == "" {
		return nil, fmt.Errorf("%q is no actor: want TYPE/KEY, such as Folder/home: %w", name, errdefs.ErrInvalidArgument)
	}
	return &api.Actor{Type: kind, Key: key}, nil
}
