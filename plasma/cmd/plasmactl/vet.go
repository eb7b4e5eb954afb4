package main

import (
	"errors"

	"github.com/urfave/cli/v2"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/vet"
	"github.com/peregrine-dev/peregrine/plasma/manifest"
)

func vetCommand() *cli.Command {
	return &cli.Command{
		Name: "vet", Usage: "tell whether policies make sense", ArgsUsage: "[FILE...]",
		Description: "- or no file is standard input.\n" +
			"Exit codes: 0 if there is nothing, or only warnings and notes; 1 if a policy is refused; 2 for anything else.",
		Flags: []cli.Flag{
			languageFlag(), liveFlag(), socketFlag(),
			&cli.PathFlag{Name: "manifest", Usage: "the application's `FILE` of types, functions, properties and metrics, to check names"},
			&cli.BoolFlag{Name: "json", Usage: "for machines"},
		},
		Action: vetFiles,
	}
}

// finding is the written form of what there is to say of a policy.
type finding struct {
	File      string       `json:"file"`
	Line      int          `json:"line"`
	Column    int          `json:"column"` // in bytes
	EndLine   int          `json:"endLine"`
	EndColumn int          `json:"endColumn"`
	Severity  vet.Severity `json:"severity"`
	Code      string       `json:"code"`
	Message   string       `json:"message"`
	Hint      string       `json:"hint,omitempty"`
	Related   []related    `json:"related,omitempty"`
}

type related struct {
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Message string `json:"message"`
}

func vetFiles(c *cli.Context) error {
	mode, err := language(c)
	if err != nil {
		return err
	}
	var m *manifest.Manifest
	if file := c.Path("manifest"); file != "" {
		name, text, err := read(c, file)
		if err != nil {
			return err
		}
		if m, err = manifest.Read(name, text); err != nil {
			return err
		}
	}
	bad := false
	all := []finding{}
	source, list := read, files(c)
	if service := c.String("live"); service != "" {
		source, list = livePolicy, []string{service}
	}
	for _, file := range list {
		name, text, err := source(c, file)
		if err != nil {
			return err
		}
		p, err := epl.Parse(name, text, mode)
		if err != nil {
			bad = true
			if all = append(all, syntax(name, err)...); !c.Bool("json") {
				if err := mistakes(c.App.Writer, text, err); err != nil {
					return err
				}
			}
			continue
		}
		found := vet.Check(p, m)
		bad = bad || vet.Refused(found)
		all = append(all, written(name, found)...)
		if c.Bool("json") {
			continue
		}
		if err := vet.Print(c.App.Writer, name, text, found); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		if err := printJSON(c.App.Writer, all); err != nil {
			return err
		}
	}
	if bad {
		return refused()
	}
	return nil
}

// syntax gives a policy's errors as findings.
func syntax(file string, err error) []finding {
	var list epl.Errors
	errors.As(err, &list)
	var all []finding
	for _, e := range list {
		all = append(all, placed(file, e.Span, finding{Severity: vet.Error, Code: "syntax", Message: e.Message, Hint: e.Hint}))
	}
	return all
}

func written(file string, found []vet.Finding) []finding {
	var all []finding
	for _, f := range found {
		w := finding{Severity: f.Severity, Code: f.Code, Message: f.Message, Hint: f.Hint}
		for _, r := range f.Related {
			w.Related = append(w.Related, related{r.Pos.Line, r.Pos.Column, r.Message})
		}
		all = append(all, placed(file, f.Span, w))
	}
	return all
}

func placed(file string, at epl.Span, f finding) finding {
	f.File, f.Line, f.Column, f.EndLine, f.EndColumn = file, at.Pos.Line, at.Pos.Column, at.End.Line, at.End.Column
	return f
}
