package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/vet"
	"github.com/peregrine-dev/peregrine/plasma/manifest"
	"github.com/peregrine-dev/peregrine/plasma/service"
)

func applyCommand() *cli.Command {
	return &cli.Command{
		Name:      "apply",
		Usage:     "start a service, or change it to what its file says",
		ArgsUsage: "SERVICE.toml",
		Description: "The policy and the manifest that the file names are checked here first, as `vet` does, and sent along.\n" +
			"It ends with 1 if the policy is refused.",
		Flags:  []cli.Flag{socketFlag(), &cli.BoolFlag{Name: "dry-run", Usage: "only say what would change"}},
		Action: apply,
	}
}

func apply(c *cli.Context) error {
	if err := named(c, 1); err != nil {
		return err
	}
	file := c.Args().First()
	b, err := service.Read(file)
	if err != nil {
		return err
	}
	found, err := vetBundle(c, file, b)
	if err != nil {
		return err
	}
	dry := c.Bool("dry-run")
	return ask(c, func(ctx context.Context, cluster api.ClusterClient) error {
		answer, err := cluster.Apply(ctx, &api.ApplyRequest{Service: b.Service, Policy: b.Policy, Manifest: b.Manifest, DryRun: dry})
		if err != nil {
			return err
		}
		return printApplied(c, b.Spec.Name, answer, found, dry)
	})
}

// vetBundle checks a service's policy and says what there is to say of it.
func vetBundle(c *cli.Context, file string, b *service.Bundle) ([]vet.Finding, error) {
	var m *manifest.Manifest
	if b.Spec.Manifest != "" {
		var err error
		if m, err = manifest.Read(service.Beside(file, b.Spec.Manifest), []byte(b.Manifest)); err != nil {
			return nil, err
		}
	}
	if b.Spec.Policy == "" {
		return nil, nil
	}
	name, text := service.Beside(file, b.Spec.Policy), []byte(b.Policy)
	p, err := epl.Parse(name, text, epl.Full)
	if err != nil {
		if err := mistakes(c.App.ErrWriter, text, err); err != nil {
			return nil, err
		}
		return nil, refused()
	}
	found := vet.Check(p, m)
	if err := vet.Print(c.App.ErrWriter, name, text, found); err != nil {
		return nil, err
	}
	if vet.Refused(found) {
		return nil, refused()
	}
	return found, nil
}

// printApplied tells what has changed, and those warnings that weren't given already.
func printApplied(c *cli.Context, name string, answer *api.ApplyResponse, found []vet.Finding, dry bool) error {
	for _, w := range answer.GetWarnings() {
		if !slices.ContainsFunc(found, func(f vet.Finding) bool { return strings.Contains(w, f.Message) }) {
			fmt.Fprintln(c.App.ErrWriter, "plasmad:", plain(w))
		}
	}
	var b strings.Builder
	for _, change := range answer.GetChanges() {
		fmt.Fprintln(&b, plain(change))
	}
	if b.Len() == 0 {
		fmt.Fprintf(&b, "%s is as the file says: there is nothing to change\n", name)
	} else if dry {
		fmt.Fprintln(&b, "nothing of this was done: leave out --dry-run to do it")
	}
	_, err := fmt.Fprint(c.App.Writer, b.String())
	return err
}
