package epl

import (
	"slices"
	"strings"
)

// lines is what was written so far.
type lines struct {
	all    []string
	last   piece
	spaced bool // braces have space within: those of limits
}

// limits writes one limit a line.
func (l *lines) limits(all []piece) {
	after := token{}
	for i, p := range all {
		depth := 1
		if i == 0 || p.is("{") || p.is("}") {
			depth = 0
		}
		l.add(all[i:i+1], depth, func(piece) bool { return after.is("{") || after.is(";") || p.is("}") })
		if !p.comment {
			after = p.token
		}
	}
}

// rule writes the head into a line, the condition into one if it fits, and each behavior into
// one.
func (l *lines) rule(all []piece) {
	is := func(text string) func(piece) bool { return func(p piece) bool { return !p.comment && p.is(text) } }
	depth := 0
	arrow := slices.IndexFunc(all, is("=>"))
	if colon := slices.IndexFunc(all, is(":")); colon >= 0 {
		l.add(all[:colon+1], 0, nil)
		depth = 1
		all, arrow = all[colon+1:], arrow-colon-1
	}
	if arrow < 0 { // the mode, with a comment in it
		l.add(all, 1, nil)
		return
	}
	first := true
	begin := func(piece) bool {
		was := first
		first = false
		return was && depth > 0
	}
	when := all[:arrow+1]
	flat := &lines{}
	flat.add(when, depth, nil)
	if !hasComment(when) && len(indent)*depth+len(flat.all[0]) <= width {
		l.add(when, depth, begin)
	} else {
		parens := 0
		for i, p := range when {
			at := depth + 1
			if first && !p.comment {
				at = depth
			}
			l.add(when[i:i+1], at, func(p piece) bool {
				if begin(p) {
					return true
				}
				dotted := i > 0 && l.last.is(".")
				return parens == 0 && !dotted && (p.is("and") || p.is("or"))
			})
			if p.is("(") && !p.comment {
				parens++
			} else if p.is(")") && !p.comment {
				parens--
			}
		}
	}
	l.add(all[arrow+1:], depth+1, func(p piece) bool { return isVerb(p.token) })
}

// add writes pieces; broken says before which of them a line begins, at the depth.
func (l *lines) add(all []piece, depth int, broken func(piece) bool) {
	for _, p := range all {
		fresh := len(l.all) == 0 || strings.HasPrefix(l.last.text, "//") || l.last.comment && l.last.fresh
		if p.comment {
			fresh = fresh || p.fresh
		} else if broken != nil && broken(p) {
			fresh = true
		}
		switch {
		case fresh:
			l.all = append(l.all, strings.Repeat(indent, depth)+p.text)
		case l.space(p):
			l.all[len(l.all)-1] += " " + p.text
		default:
			l.all[len(l.all)-1] += p.text
		}
		l.last = p
	}
}

// space tells whether there is one between the last piece and this.
func (l *lines) space(p piece) bool {
	last := l.last
	if last.comment {
		return p.comment || !p.is(",") && !p.is(";") && !p.is(")")
	}
	if p.comment {
		return true
	}
	if p.kind == punct {
		switch p.text {
		case ",", ")", ".", ":", "%", "..":
			return false
		case ";":
			return last.is("=>")
		case "}":
			return l.spaced
		case "(":
			return last.kind == punct && !last.is("(") || last.is("and") || last.is("or") || last.is("not")
		}
	}
	if last.kind == punct {
		switch last.text {
		case "(", ".", "..":
			return false
		case "{":
			return l.spaced
		}
	}
	return true
}
