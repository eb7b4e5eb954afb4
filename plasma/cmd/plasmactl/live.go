package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/model"
)

// liveFlag makes a command about files one about a running service.
func liveFlag() cli.Flag {
	return &cli.StringFlag{Name: "live", Usage: "of the running `SERVICE`"}
}

// livePlan has plasmad plan a service now, by its own policy or the one that is named. Nothing of
// it is carried out.
func livePlan(c *cli.Context, service string) (*model.Plan, error) {
	if c.NArg() > 1 {
		return nil, fmt.Errorf("want at most a policy with --live: %w", errdefs.ErrInvalidArgument)
	}
	var policy []byte
	if c.NArg() == 1 {
		var err error
		if _, policy, err = compile(c, c.Args().First()); err != nil {
			return nil, err
		}
		if len(policy) == 0 {
			return nil, fmt.Errorf("the policy is empty: leave it out for the service's own: %w", errdefs.ErrInvalidArgument)
		}
	}
	var step *model.Step
	err := ask(c, func(ctx context.Context, cluster api.ClusterClient) error {
		answer, err := cluster.Plan(ctx, &api.PlanRequest{Service: service, Policy: string(policy)})
		if err != nil {
			return err
		}
		record, err := model.NewReplay(bytes.NewReader(answer.GetRecord()))
		if err != nil {
			return fmt.Errorf("plasmad's plan: %w", err)
		}
		if step, err = record.Next(); err != nil {
			return fmt.Errorf("plasmad's plan: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &step.Plan, nil
}

// livePolicy gives the policy of a service as plasmad has it.
func livePolicy(c *cli.Context, service string) (name string, text []byte, err error) {
	err = ask(c, func(ctx context.Context, cluster api.ClusterClient) error {
		now, err := fetch(ctx, cluster, service)
		if err != nil {
			return err
		}
		for _, s := range now.Services {
			if s.Name == service {
				name, text = fmt.Sprintf("%s (version %d)", service, s.Version), []byte(s.Policy)
				return nil
			}
		}
		return fmt.Errorf("there is no service %s: %w", service, errdefs.ErrNotFound)
	})
	return name, text, err
}
