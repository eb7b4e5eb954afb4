package epl

import (
	"fmt"
	"slices"
	"strconv"
)

// verbs are the behaviors' names.
var verbs = []string{string(Balance), string(Reserve), string(Colocate), string(Separate), string(Pin)}

// resources are what can be used up.
var resources = []string{"cpu", "mem", "net"}

// item reads a rule, limits, or the mode.
func (p *parser) item() {
	start := p.tok.Span
	switch {
	case p.tok.is("limits") && p.peek.is("{"):
		p.extension(start, `"limits"`)
		p.limits()
	case p.tok.is("mode") && p.peek.kind == word && p.peek.text != "in":
		p.extension(start, `"mode"`)
		p.advance()
		p.oneOf("shadow")
		p.to(&start)
		p.expect(";", "")
		if p.policy.Shadow {
			p.report(start, `"mode shadow" is given twice`, "leave out one")
		}
		p.policy.Shadow, p.policy.ShadowAt = true, start
	default:
		p.rule()
	}
}

// head tells whether a rule's head begins here: else "rule" and "priority" are names.
func (p *parser) head() bool {
	return p.tok.is("rule") && p.peek.kind == word && p.peek.text != "in" ||
		p.tok.is("priority") && p.peek.kind == number
}

func (p *parser) rule() {
	p.depth, p.terms, p.bound, p.alone, p.unclear = 0, 0, map[string]bool{}, nil, ""
	r := &Rule{Span: p.tok.Span}
	before := len(p.errs)
	if p.head() {
		p.extension(p.tok.Span, "the head of a rule")
		if p.accept("rule") {
			r.Name, r.NameAt = p.name("the rule's name")
		}
		if p.accept("priority") {
			r.PriorityAt = p.tok.Span
			r.Priority = p.whole("a priority", 1_000_000)
		}
		p.expect(":", "a rule begins: rule NAME priority N: condition => behaviors;")
	}
	if p.tok.kind == word && p.peek.is("(") {
		if near := Nearest(p.tok.text, verbs); near != "" {
			p.unclear = fmt.Sprintf("did you mean %q?", near)
		}
	}
	if p.isVerb() {
		p.fail("a condition", `every rule has a condition before "=>"; "true" always holds`)
	}
	r.When = p.or()
	if !p.bad && !p.tok.is("=>") {
		hint := p.meant("and", "or", "in")
		if p.tok.is("%") {
			hint = "perc is in percent: leave out the sign"
		} else if p.tok.is(";") {
			hint = `a rule is: condition => behaviors;`
		} else if p.isVerb() {
			hint = `"=>" comes before the behaviors`
		}
		p.fail(`"=>", "and" or "or"`, hint)
	}
	if p.bad {
		p.skipTo("=>", ";")
		p.bad = false
		if !p.tok.is("=>") {
			// It may have been a misspelt behavior of the rule before: others may follow.
			if p.accept(";") && p.isVerb() {
				p.behaviors(r)
			}
			return
		}
	}
	p.advance()
	p.behaviors(r)
	p.to(&r.Span)
	for _, a := range p.alone {
		if p.bound[a.Type] {
			a.Type, a.Var = "", a.Type
		}
	}
	if len(p.errs) > before {
		return
	}
	if len(p.policy.Rules) == maxRules {
		p.report(r.Span, fmt.Sprintf("the policy has more than %d rules", maxRules), "make several policies of it")
		p.lex.skip(len(p.lex.rest()))
		p.advance()
		p.advance()
		return
	}
	p.policy.Rules = append(p.policy.Rules, r)
}

func (p *parser) isVerb() bool {
	return p.tok.kind == word && slices.Contains(verbs, p.tok.text)
}

// behaviors reads what follows "=>", with its last semicolon.
func (p *parser) behaviors(r *Rule) {
	if p.accept(";") {
		return
	}
	for p.isVerb() {
		b := p.behavior()
		r.Do = append(r.Do, b)
		if p.bad {
			p.recover()
			continue
		}
		if !p.accept(";") && !p.isVerb() {
			p.report(Span{p.last, p.last}, `want ";", found `+p.tok.String(), "each behavior ends with a semicolon")
			p.bad = p.tok.kind != word
			return
		}
	}
	if len(r.Do) == 0 {
		p.fail("a behavior: "+list(verbs), p.meant(verbs...))
	}
	if p.bad {
		p.recover()
		// What follows may belong to the same rule.
		if p.isVerb() {
			p.behaviors(r)
		}
	}
}

func (p *parser) behavior() *Behavior {
	b := &Behavior{Span: p.tok.Span, Verb: Verb(p.tok.text), VerbAt: p.tok.Span}
	p.advance()
	p.expect("(", "")
	switch b.Verb {
	case Balance:
		p.expect("{", "balance takes types in braces: balance({Folder, File}, cpu)")
		for !p.bad && !p.tok.is("}") {
			b.Actors = append(b.Actors, p.balanced())
			if !p.tok.is("}") {
				p.expect(",", "")
			}
		}
		p.expect("}", "")
		p.resource(b)
	case Reserve:
		b.Actors = []*Actor{p.actor()}
		p.resource(b)
	case Pin:
		b.Actors = []*Actor{p.actor()}
	default:
		first := p.actor()
		p.expect(",", string(b.Verb)+" takes two actors")
		b.Actors = []*Actor{first, p.actor()}
	}
	p.expect(")", "")
	p.to(&b.Span)
	if p.tok.is("at") {
		p.level(b)
	}
	return b
}

// balanced reads a type of balance.
func (p *parser) balanced() *Actor {
	a := &Actor{Span: p.tok.Span, Type: Any}
	if !p.accept(Any) {
		a.Type, a.Span = p.name("a type")
	}
	if p.tok.is("(") {
		p.fail(`"," or "}"`, "balance takes types, without variables")
	}
	return a
}

func (p *parser) resource(b *Behavior) {
	p.expect(",", string(b.Verb)+" takes what to look at: cpu, mem or net")
	b.Resource, b.ResourceAt = p.oneOf(resources...)
}

func (p *parser) level(b *Behavior) {
	p.extension(p.tok.Span, `"at"`)
	if b.Verb != Colocate && b.Verb != Separate {
		p.fail(`";"`, "only colocate and separate take a level")
		return
	}
	p.accept("at")
	level, at := p.oneOf(string(Node), string(Zone), "server")
	if level != "server" {
		b.Level = Level(level)
	}
	b.LevelAt = at
	p.to(&b.Span)
}

// actor reads Type(Var), Type or Var.
func (p *parser) actor() *Actor {
	a := &Actor{Span: p.tok.Span, Type: Any}
	isAny := p.accept(Any)
	if !isAny {
		hint := ""
		if p.tok.is("server") || p.tok.is("client") {
			hint = "only actors can be here"
		}
		if p.tok.kind != word || hint != "" {
			p.fail("an actor", hint)
		}
		a.Type, a.Span = p.name("an actor")
	}
	switch {
	case p.accept("("):
		a.Var, _ = p.name("a variable")
		if p.tok.is(",") && p.unclear != "" {
			p.fail(`")"`, p.unclear)
		}
		p.expect(")", "")
		p.bound[a.Var] = true
	case !isAny && !p.bad:
		p.alone = append(p.alone, a)
	}
	p.to(&a.Span)
	return a
}

// whole reads a number without a fraction or unit, up to most.
func (p *parser) whole(want string, most int) int {
	n, err := strconv.Atoi(p.tok.text)
	if p.tok.kind != number || err != nil || n > most {
		p.fail(fmt.Sprintf("%s: a whole number up to %d", want, most), "")
		return 0
	}
	p.advance()
	return n
}
