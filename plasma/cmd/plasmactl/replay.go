package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/plan"
)

func replayCommand() *cli.Command {
	return &cli.Command{
		Name:      "replay",
		Usage:     "plan again what was recorded, by the same policy or another, and say what differs",
		ArgsUsage: "RECORD",
		Description: "Each step is planned with the snapshot and the memory that were recorded: what differs is what the other\n" +
			"policy, or this version of the planner, would have done at that moment. It ends with 1 if anything differs.",
		Flags: []cli.Flag{
			languageFlag(),
			&cli.PathFlag{Name: "policy", Usage: "plan by the policy in `FILE` instead of the record's"},
			&cli.BoolFlag{Name: "json", Usage: "print JSON"},
		},
		Action: replay,
	}
}

// difference is a step that was planned otherwise.
type difference struct {
	Step     int            `json:"step"`
	At       string         `json:"at"`
	Recorded []model.Action `json:"recorded"`
	Now      []model.Action `json:"now"`
}

func replay(c *cli.Context) error {
	if c.NArg() != 1 {
		return fmt.Errorf("want a record: %w", errdefs.ErrInvalidArgument)
	}
	file := c.Args().First()
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	record, err := model.NewReplay(f)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	program, err := programOf(c, file, record.Header)
	if err != nil {
		return err
	}
	steps, all, err := replan(plan.New(program), record)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if c.Bool("json") {
		err = printJSON(c.App.Writer, all)
	} else {
		err = printDifferences(c.App.Writer, steps, all)
	}
	if err == nil && len(all) > 0 {
		return cli.Exit("", 1)
	}
	return err
}

func programOf(c *cli.Context, file string, h model.Header) (*ir.Program, error) {
	if c.IsSet("policy") {
		program, _, err := compile(c, c.Path("policy"))
		return program, err
	}
	mode := epl.Full
	if h.Paper {
		mode = epl.Paper
	}
	return compileText(c, file+" (its policy)", []byte(h.Policy), mode)
}

func replan(p *plan.Planner, record *model.Replay) (steps int, all []difference, err error) {
	all = []difference{}
	for {
		s, err := record.Next()
		if errors.Is(err, io.EOF) {
			return steps, all, nil
		}
		if err != nil {
			return steps, all, err
		}
		steps++
		now := p.Plan(&s.Snapshot, s.Before)
		one, err := json.Marshal(s.Plan.Actions)
		if err != nil {
			return steps, all, err
		}
		two, err := json.Marshal(now.Actions)
		if err != nil {
			return steps, all, err
		}
		if !bytes.Equal(one, two) {
			all = append(all, difference{steps, s.Snapshot.At.String(), s.Plan.Actions, now.Actions})
		}
	}
}

func printDifferences(w io.Writer, steps int, all []difference) error {
	fmt.Fprintf(w, "%d steps, %d of them planned otherwise\n", steps, len(all))
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, d := range all {
		fmt.Fprintf(t, "step %d at %s\trecorded\t%s\n", d.Step, d.At, brief(d.Recorded))
		fmt.Fprintf(t, "\tnow\t%s\n", brief(d.Now))
	}
	return t.Flush()
}

// brief is how many of each action there are.
func brief(actions []model.Action) string {
	var order []model.Verb
	counts := map[model.Verb]int{}
	for _, a := range actions {
		if counts[a.Verb] == 0 {
			order = append(order, a.Verb)
		}
		counts[a.Verb]++
	}
	if len(order) == 0 {
		return "nothing"
	}
	text := ""
	for i, v := range order {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%d %s", counts[v], v)
	}
	return text
}
