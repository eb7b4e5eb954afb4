// Package report shows what came of simulations: one HTML page that needs nothing else and can be
// read offline, or a table for a terminal.
package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/sim"
)

// Policy is a policy or baseline, and the results of its runs, one for each seed. The first run
// is the one that is drawn; there must be one.
type Policy struct {
	Name string
	// Doc is one sentence, or empty.
	Doc string
	// Text is the policy as it was written, or empty.
	Text    string
	Results []*sim.Result
}

// Head is what a report says of itself.
type Head struct {
	Title string
	// Notes are sentences below it.
	Notes []string
}

//go:embed page.html
var pageText string

//go:embed style.css
var style string

//go:embed script.js
var script string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// maxRows is how many decisions a page shows.
const maxRows = 500

// page is what the template shows.
type page struct {
	Head
	Style     template.CSS
	Script    template.JS
	Facts     []fact
	Table     *table
	Charts    []chart
	Heat      *heat
	Decisions []decision
	Hidden    int
	Policies  []Policy
	Invalid   []fact
}

// fact is a name and a value.
type fact struct{ Name, Value, Doc string }

type decision struct {
	At, Rule, Behavior, Done, Code, Reason string
}

// HTML writes a page about policies: of one, with all details; of several, side by side.
func HTML(w io.Writer, h Head, policies []Policy) error {
	if err := check(policies); err != nil {
		return err
	}
	p := page{
		Head: h, Style: template.CSS(style), Script: template.JS(script), Policies: policies,
	}
	if len(policies) == 1 {
		r := policies[0].Results[0]
		p.Facts = facts(r)
		p.Invalid = invalid(r)
		p.Charts = details(r)
		p.Heat = newHeat(r)
		p.Decisions, p.Hidden = decisions(r)
	} else {
		p.Table = compare(policies)
		p.Charts = overlays(policies)
	}
	return pageTemplate.Execute(w, p)
}

func check(policies []Policy) error {
	if len(policies) == 0 {
		return fmt.Errorf("there is nothing to report: give at least one policy")
	}
	for _, p := range policies {
		if len(p.Results) == 0 {
			return fmt.Errorf("%s has no results: run it first", p.Name)
		}
	}
	return nil
}

// decisions merges both kinds, the latest first, and tells how many there is no room for.
func decisions(r *sim.Result) (rows []decision, hidden int) {
	i, k := len(r.Done), len(r.NotDone)
	total := i + k
	for len(rows) < maxRows && (i > 0 || k > 0) {
		var d sim.Decided
		if k == 0 || i > 0 && r.Done[i-1].At >= r.NotDone[k-1].At {
			i--
			d = r.Done[i]
		} else {
			k--
			d = r.NotDone[k]
		}
		done := "no"
		if d.Done {
			done = "yes"
		}
		rows = append(rows, decision{clock(d.At), d.Rule, d.Behavior, done, d.Code, d.Reason})
	}
	return rows, total - len(rows)
}

func clock(d time.Duration) string { return d.Round(time.Millisecond).String() }
