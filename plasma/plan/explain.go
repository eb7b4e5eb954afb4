package plan

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/model"
)

// Codes of decisions, for machines.
const (
	codeIdle      = "holds-nowhere"
	codeTooMany   = "too-many-matches"
	codePinned    = "pinned"
	codeMoving    = "moving"
	codeLost      = "server-down"
	codeClosed    = "server-closed"
	codeReserved  = "reserved"
	codeSeparate  = "separate"
	codeColocated = "colocated"
	codeTogether  = "together-already"
	codeApart     = "apart-already"
	codeTooLarge  = "too-large"
	codeTied      = "tied-elsewhere"
	codeNoRoom    = "no-room"
	codeBudget    = "move-limit"
	codeSettled   = "moved-lately"
	codeCooldown  = "cooldown"
	codeMax       = "max-servers"
	codeMin       = "min-servers"
	codeStarting  = "starting"
	codeNoNode    = "no-node"
	codeMoved     = "moved"
	codeResized   = "resized"
	codeOut       = "scaled-out"
	codeIn        = "scaled-in"
	codeBalanced  = "balanced"
	codeReleased  = "released"
	codeDrained   = "drained"
	codeBlocked   = "drain-blocked"
	codeStopped   = "stopped"
)

// told bounds how many decisions of a behavior are explained one by one.
const told = 50

// explainer writes a plan's decisions.
type explainer struct {
	run  *run
	told map[*epl.Behavior]int
}

// say explains a decision that is of a whole behavior, or of a rule if there is none.
func (e *explainer) say(rule *ir.Rule, b *epl.Behavior, done bool, code, format string, args ...any) {
	text := ""
	if b != nil {
		text = b.String()
	}
	e.add(rule, text, done, code, fmt.Sprintf(format, args...), nil)
}

// pair explains what became of a behavior for some actors; actions are those from a place on.
func (e *explainer) pair(f fired, p pair, done bool, code string, from int, reason func() string) {
	e.told[f.behavior]++
	if n := e.told[f.behavior]; n > told {
		if n == told+1 {
			e.add(f.rule, f.behavior.String(), done, code, "there are more of the kind: only the first "+strconv.Itoa(told)+" are explained one by one", nil)
		}
		return
	}
	r := e.run
	var text strings.Builder
	text.WriteString(string(f.behavior.Verb) + "(" + r.Actors[p.a].ID)
	if p.b != none {
		text.WriteString(", " + r.Actors[p.b].ID)
	}
	if f.behavior.Resource != "" {
		text.WriteString(", " + f.behavior.Resource)
	}
	text.WriteString(")")
	if f.behavior.Level != "" {
		text.WriteString(" at " + string(f.behavior.Level))
	}
	e.add(f.rule, text.String(), done, code, reason(), e.since(from))
}

// since are the actions from a place on.
func (e *explainer) since(from int) []int {
	var all []int
	for i := from; i < len(e.run.plan.Actions); i++ {
		all = append(all, i)
	}
	return all
}

func (e *explainer) add(rule *ir.Rule, text string, done bool, code, reason string, actions []int) {
	e.run.plan.Decisions = append(e.run.plan.Decisions, model.Decision{
		Rule: nameOf(rule), Behavior: text, Done: done, Code: code, Reason: reason, Actions: actions,
	})
}

// idle explains why a rule holds nowhere.
func (e *explainer) idle(rule *ir.Rule) {
	reason := "its condition holds nowhere"
	var nearest []string
	for i := range rule.When {
		if text := e.nearest(&rule.When[i]); text != "" {
			nearest = append(nearest, text)
		}
	}
	if len(nearest) > 0 {
		reason += ": " + strings.Join(nearest, "; ")
	}
	e.add(rule, "", false, codeIdle, reason, nil)
}

// nearest says how near a condition on servers is to holding.
func (e *explainer) nearest(a *ir.Alternative) string {
	for i := range a.Terms {
		t := &a.Terms[i]
		if t.Compare == nil || t.Entity >= 0 || t.Not {
			continue
		}
		least := t.Compare.Op == epl.Less || t.Compare.Op == epl.LessEqual
		best, name, found := 0.0, "", false
		for s := range e.run.Servers {
			value, ok := e.run.measure(t.Compare.Feature, int32(s), none, none)
			if !ok || e.run.Servers[s].State != model.Up || found && (value < best) != least {
				continue
			}
			best, name, found = value, e.run.Servers[s].ID, true
		}
		if found && !holds(t.Compare.Op, best, t.Compare.Value.Value) {
			what := "highest"
			if least {
				what = "lowest"
			}
			return fmt.Sprintf("the %s %s is %.4g, of %s", what, t.Compare.Feature, best, name)
		}
	}
	return ""
}

func percent(share float64) string { return fmt.Sprintf("%.0f %%", 100*share) }

// count is a number with the word for one or for several.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}
