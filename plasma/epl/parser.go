package epl

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// What a text may have: bad ones cost little then.
const (
	maxText   = 1 << 20
	maxErrors = 100
	maxDepth  = 100 // of parentheses and nots
	maxTerms  = 1000
	maxRules  = 10000
	maxName   = 100
)

// Parse reads a policy. The name is that of its file, for errors. An error is of type Errors
// and has all mistakes of the text; the policy then has those rules that have none.
//
// A rule's behaviors end with semicolons. The published grammar can be read as if only the last
// did; that is understood, too.
func Parse(name string, text []byte, mode Mode) (*Policy, error) {
	if len(text) > maxText {
		at := Pos{Line: 1, Column: 1}
		return &Policy{Mode: mode, Span: Span{at, at}}, Errors{{
			File: name, Span: Span{at, at},
			Message: fmt.Sprintf("the policy has %d bytes, it may have %d", len(text), maxText),
		}}
	}
	p := &parser{file: name, lex: newLexer(text), policy: &Policy{Mode: mode}}
	p.policy.Pos = p.lex.at
	p.tok, p.peek = p.lex.next(), p.lex.next()
	for p.tok.kind != eof && len(p.errs) < maxErrors {
		from := p.tok.Pos.Offset
		p.item()
		if p.bad {
			p.recover()
		}
		if p.tok.Pos.Offset == from {
			p.advance()
		}
	}
	p.policy.End = p.tok.End
	p.policy.Comments = p.lex.comments
	if len(p.errs) > 0 {
		slices.SortStableFunc(p.errs, func(a, b *Error) int { return a.Pos.Offset - b.Pos.Offset })
		return p.policy, p.errs
	}
	return p.policy, nil
}

// parser has one token in hand and sees the next. After a mistake it is bad: nothing is read
// and no mistake is noted until it has recovered.
type parser struct {
	file      string
	lex       *lexer
	tok, peek token
	last      Pos // where the token before tok ended
	policy    *Policy
	errs      Errors
	bad       bool

	// Of the rule in hand.
	depth, terms int
	bound        map[string]bool // names that are variables
	alone        []*Actor        // actors that are a name alone
	unclear      string          // what to say of a mistake in its condition
}

func (p *parser) advance() {
	p.last = p.tok.End
	p.tok, p.peek = p.peek, p.lex.next()
}

// recover skips to the end of the statement.
func (p *parser) recover() {
	p.skipTo(";")
	p.bad = false
	p.accept(";")
}

// skipTo skips until one of these, or something that begins an item. It reads even if bad.
func (p *parser) skipTo(stops ...string) {
	for p.tok.kind != eof {
		if p.tok.kind == punct && slices.Contains(stops, p.tok.text) {
			return
		}
		p.advance()
		if p.tok.is("rule") && p.head() || p.tok.is("limits") && p.peek.is("{") || p.tok.is("mode") && p.peek.is("shadow") {
			return
		}
	}
}

// report notes a mistake and goes on as if there were none.
func (p *parser) report(at Span, message, hint string) {
	if p.bad || len(p.errs) >= maxErrors {
		return
	}
	p.errs = append(p.errs, &Error{Span: at, File: p.file, Message: message, Hint: hint})
}

// fail notes that something else was wanted here.
func (p *parser) fail(want, hint string) {
	if p.bad {
		return
	}
	if p.tok.hint != "" {
		hint = p.tok.hint
	}
	found := p.tok.String()
	p.report(p.tok.Span, fmt.Sprintf("want %s, found %s", want, found), hint)
	if n := len(p.errs); n > 0 && p.errs[n-1].Span == p.tok.Span {
		p.errs[n-1].Want, p.errs[n-1].Found = want, found
	}
	p.bad = true
}

// extension notes that the paper's language hasn't got this.
func (p *parser) extension(at Span, what string) {
	if p.policy.Mode == Paper {
		p.report(at, what+" is an extension, it isn't in the published language", "leave out --epl=paper")
	}
}

// accept takes the token if it is this.
func (p *parser) accept(text string) bool {
	if p.bad || !p.tok.is(text) {
		return false
	}
	p.advance()
	return true
}

// expect takes the token that has to be this.
func (p *parser) expect(text, hint string) {
	if !p.accept(text) {
		p.fail(`"`+text+`"`, hint)
	}
}

// oneOf takes a word that has to be one of these.
func (p *parser) oneOf(words ...string) (string, Span) {
	at := p.tok.Span
	if !p.bad && p.tok.kind == word && slices.Contains(words, p.tok.text) {
		text := p.tok.text
		p.advance()
		return text, at
	}
	p.fail(list(words), p.meant(words...))
	return words[0], at
}

// meant is a hint that one of these may be what was meant, or "".
func (p *parser) meant(words ...string) string {
	if p.tok.kind == word {
		if near := Nearest(p.tok.text, words); near != "" {
			return fmt.Sprintf("did you mean %q?", near)
		}
	}
	return ""
}

// list gives "a", "b" or "c".
func list(words []string) string {
	var b strings.Builder
	for i, w := range words {
		switch {
		case i == 0:
		case i == len(words)-1:
			b.WriteString(" or ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(strconv.Quote(w))
	}
	return b.String()
}

// reserved words can't name types, variables and rules. What follows a dot may have any name.
var reserved = []string{
	"and", "or", "not", "true", "in", "any", "server", "client",
	"balance", "reserve", "colocate", "separate", "pin",
}

// name takes the name of a type, a variable or a rule.
func (p *parser) name(want string) (string, Span) {
	text, at := p.tok.text, p.tok.Span
	if p.bad {
		return "", at
	}
	if p.tok.kind != word {
		p.fail(want, "")
		return "", at
	}
	if slices.Contains(reserved, text) {
		p.fail(want, fmt.Sprintf("%q has a meaning of its own and can't be a name", text))
		return "", at
	}
	p.advance()
	return text, at
}

// member takes a name after a dot.
func (p *parser) member(want string) (string, Span) {
	text, at := p.tok.text, p.tok.Span
	if p.bad || p.tok.kind != word {
		p.fail(want, "")
		return "", at
	}
	p.advance()
	return text, at
}

// to ends a span where the last token ended.
func (p *parser) to(s *Span) { s.End = p.last }
