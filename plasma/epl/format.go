package epl

import (
	"bytes"
	"strings"
)

const (
	width  = 100 // of lines, where they can be broken
	indent = "    "
)

// Format gives the text as it should look: its tokens and comments as they are, the space
// between them as everybody's. What fits a line is in one. Of what it gave it changes nothing.
// An error is Parse's.
func Format(name string, text []byte, mode Mode) ([]byte, error) {
	if _, err := Parse(name, text, mode); err != nil {
		return nil, err
	}
	return layout(text), nil
}

// piece is a token or a comment.
type piece struct {
	token
	comment bool
	// fresh is in another line than the piece before, blank has an empty line before it.
	fresh, blank bool
}

// statement is a rule, limits, or the mode, with its comments.
type statement struct {
	before []piece // comments
	body   []piece // with comments, also those in the line where it ends
}

// layout formats a text that has no mistakes.
func layout(text []byte) []byte {
	var out bytes.Buffer
	tall := false // the statement before has several lines
	for i, s := range split(pieces(text)) {
		all := append(append([]piece(nil), s.before...), s.body...)
		lines := s.lines()
		if i > 0 && (all[0].blank || tall || len(lines) > 1) {
			out.WriteByte('\n')
		}
		for j, c := range s.before {
			if j > 0 && c.blank {
				out.WriteByte('\n')
			}
			out.WriteString(c.text + "\n")
		}
		if len(s.before) > 0 && len(s.body) > 0 && s.body[0].blank {
			out.WriteByte('\n')
		}
		for _, l := range lines {
			out.WriteString(l + "\n")
		}
		tall = len(lines) > 1
	}
	return out.Bytes()
}

// pieces gives the text's tokens and comments, in its order.
func pieces(text []byte) []piece {
	var all []piece
	line := 1
	add := func(p piece) {
		p.fresh, p.blank = p.Pos.Line > line, p.Pos.Line > line+1
		line = p.End.Line
		all = append(all, p)
	}
	lex := newLexer(text)
	for {
		t := lex.next()
		for _, c := range lex.comments {
			text := strings.ReplaceAll(c.Text, "\r\n", "\n")
			add(piece{token: token{Span: c.Span, text: text}, comment: true})
		}
		lex.comments = lex.comments[:0]
		if t.kind == eof {
			return all
		}
		add(piece{token: t})
	}
}

// split cuts pieces into statements.
func split(all []piece) []statement {
	var out []statement
	for len(all) > 0 {
		var s statement
		n := 0
		for n < len(all) && all[n].comment {
			n++
		}
		s.before, all = all[:n], all[n:]
		n = length(all)
		for n < len(all) && all[n].comment && !all[n].fresh {
			n++
		}
		s.body, all = all[:n], all[n:]
		out = append(out, s)
	}
	return out
}

// length is how many pieces the statement has that all begins with.
func length(all []piece) int {
	end := func(i int) bool { return all[i].is(";") }
	switch next := following(all, 0); {
	case len(all) == 0:
		return 0
	case all[0].is("limits") && next.is("{"):
		end = func(i int) bool { return all[i].is("}") }
	case all[0].is("mode") && next.kind == word && next.text != "in":
	default:
		end = func(i int) bool {
			next := following(all, i)
			return all[i].is(";") && (next.kind != word || !isVerb(next))
		}
	}
	for i, p := range all {
		if !p.comment && end(i) {
			return i + 1
		}
	}
	return len(all)
}

// following gives the token after the i-th piece, or none.
func following(all []piece, i int) token {
	for i++; i < len(all); i++ {
		if !all[i].comment {
			return all[i].token
		}
	}
	return token{}
}

func isVerb(t token) bool {
	for _, v := range verbs {
		if t.is(v) {
			return true
		}
	}
	return false
}

// lines gives the statement's lines: one, if they fit it and have no comment within.
func (s statement) lines() []string {
	if len(s.body) == 0 {
		return nil
	}
	last := len(s.body)
	for s.body[last-1].comment {
		last--
	}
	flat := &lines{spaced: s.body[0].is("limits")}
	flat.add(s.body[:last], 0, nil)
	one := !hasComment(s.body[:last]) && len(flat.all) == 1 && len(flat.all[0]) <= width
	if !one {
		flat = &lines{spaced: flat.spaced}
		if flat.spaced && following(s.body, 0).is("{") {
			flat.limits(s.body[:last])
		} else {
			flat.rule(s.body[:last])
		}
	}
	flat.add(s.body[last:], 0, nil)
	return flat.all
}

func hasComment(all []piece) bool {
	for _, p := range all {
		if p.comment {
			return true
		}
	}
	return false
}
