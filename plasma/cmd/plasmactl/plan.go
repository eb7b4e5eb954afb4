package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/plan"
)

// maxSnapshot bounds a file with a snapshot, in bytes.
const maxSnapshot = 512 << 20

func planCommand() *cli.Command {
	return &cli.Command{
		Name:      "plan",
		Usage:     "say what a policy would do about a snapshot, or about a running service",
		ArgsUsage: "POLICY SNAPSHOT | --live SERVICE [POLICY]",
		Flags:     []cli.Flag{languageFlag(), liveFlag(), socketFlag(), &cli.BoolFlag{Name: "json", Usage: "print JSON"}},
		Action: func(c *cli.Context) error {
			p, err := planOf(c)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return printJSON(c.App.Writer, p)
			}
			return printActions(c.App.Writer, p)
		},
	}
}

func explainCommand() *cli.Command {
	return &cli.Command{
		Name:      "explain",
		Usage:     "say why a policy would do that, and why it would not do more",
		ArgsUsage: "POLICY SNAPSHOT | --live SERVICE [POLICY]",
		Flags: []cli.Flag{
			languageFlag(), liveFlag(), socketFlag(),
			&cli.BoolFlag{Name: "json", Usage: "print JSON"},
			&cli.StringFlag{Name: "rule", Usage: "of the rule `NAME` only"},
		},
		Action: func(c *cli.Context) error {
			p, err := planOf(c)
			if err != nil {
				return err
			}
			if name := c.String("rule"); name != "" {
				p.Decisions = slices.DeleteFunc(p.Decisions, func(d model.Decision) bool { return d.Rule != name })
			}
			if c.Bool("json") {
				return printJSON(c.App.Writer, p.Decisions)
			}
			return printDecisions(c.App.Writer, p)
		},
	}
}

// planOf plans what a command's arguments name. Of a record, it is the last step's snapshot
// with its memory.
func planOf(c *cli.Context) (*model.Plan, error) {
	if service := c.String("live"); service != "" {
		return livePlan(c, service)
	}
	if c.NArg() != 2 {
		return nil, fmt.Errorf("want a policy and a snapshot: %w", errdefs.ErrInvalidArgument)
	}
	program, _, err := compile(c, c.Args().Get(0))
	if err != nil {
		return nil, err
	}
	s, err := readSnapshot(c.Args().Get(1))
	if err != nil {
		return nil, err
	}
	p := plan.New(program).Plan(&s.Snapshot, s.Before)
	return &p, nil
}

// readSnapshot reads a file with a snapshot, or the last step of a record.
func readSnapshot(file string) (*model.Step, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if replay, err := model.NewReplay(f); err == nil {
		var last *model.Step
		for {
			s, err := replay.Next()
			if errors.Is(err, io.EOF) && last != nil {
				return last, nil
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			last = s
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSnapshot))
	if err != nil {
		return nil, err
	}
	s := new(model.Step)
	if err := json.Unmarshal(text, &s.Snapshot); err != nil {
		return nil, fmt.Errorf("%s is no snapshot: %w: %w", file, err, errdefs.ErrInvalidArgument)
	}
	if err := s.Snapshot.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

func printActions(w io.Writer, p *model.Plan) error {
	if len(p.Actions) == 0 {
		_, err := fmt.Fprintln(w, "nothing to do; `plasmactl explain` says why")
		return err
	}
	if p.Shadow {
		fmt.Fprintln(w, "mode shadow: nothing of this would be carried out")
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "ACTION\tACTOR\tFROM\tTO\tRULE\tREASON")
	for _, a := range p.Actions {
		to := a.ToName
		if a.Verb == model.ScaleOut {
			to = "node " + a.NodeName
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", a.Verb, dash(a.ActorName), dash(a.FromName), to, a.Rule, a.Reason)
	}
	return t.Flush()
}

func printDecisions(w io.Writer, p *model.Plan) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "RULE\tBEHAVIOR\tDONE\tWHY")
	for _, d := range p.Decisions {
		done := "no"
		if d.Done {
			done = "yes"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", d.Rule, dash(d.Behavior), done, d.Reason)
	}
	return t.Flush()
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// compile reads a policy and makes a program of it. It has said what is wrong when the error is
// refused.
func compile(c *cli.Context, file string) (*ir.Program, []byte, error) {
	mode, err := language(c)
	if err != nil {
		return nil, nil, err
	}
	name, text, err := read(c, file)
	if err != nil {
		return nil, nil, err
	}
	program, err := compileText(c, name, text, mode)
	return program, text, err
}

func compileText(c *cli.Context, name string, text []byte, mode epl.Mode) (*ir.Program, error) {
	p, err := epl.Parse(name, text, mode)
	if err != nil {
		if err := mistakes(c.App.ErrWriter, text, err); err != nil {
			return nil, err
		}
		return nil, refused()
	}
	program, err := ir.Compile(p)
	if err != nil {
		return nil, fmt.Errorf("%s:%w", name, err)
	}
	return program, nil
}
