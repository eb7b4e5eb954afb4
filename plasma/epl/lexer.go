package epl

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// kind is what a token is.
type kind int

const (
	eof kind = iota
	word
	number // with its unit, if it has one
	quoted // with its quotes
	punct
	illegal // hint says why
)

type token struct {
	Span
	kind kind
	text string
	hint string
}

// String is how messages name the token.
func (t token) String() string {
	switch {
	case t.kind == eof:
		return "the end of the text"
	case len(t.text) > 40:
		return fmt.Sprintf("%q...", t.text[:40])
	case t.kind == quoted:
		return t.text
	}
	return `"` + t.text + `"`
}

func (t token) is(text string) bool {
	return (t.kind == word || t.kind == punct) && t.text == text
}

// lexer cuts a text into tokens, one at a time. Comments are kept apart.
type lexer struct {
	text     []byte
	whole    string // the same: tokens are parts of it
	at       Pos
	comments []Comment
}

func newLexer(text []byte) *lexer {
	return &lexer{text: text, whole: string(text), at: Pos{Line: 1, Column: 1}}
}

// puncts are the language's signs, and others that people write instead: with what to write.
// Longer ones come before their beginnings.
var puncts = []struct{ text, hint string }{
	{"=>", ""},
	{">=", ""},
	{"<=", ""},
	{"==", ""},
	{"..", ""},
	{"->", `write "=>"`},
	{"→", `write "=>"`},
	{"⇒", `write "=>"`},
	{"&&", `write "and"`},
	{"||", `write "or"`},
	{"!=", `there is no "!=": write not, and "=="`},
	{"≥", `write ">="`},
	{"≤", `write "<="`},
	{"<", ""},
	{">", ""},
	{"(", ""},
	{")", ""},
	{"{", ""},
	{"}", ""},
	{",", ""},
	{";", ""},
	{":", ""},
	{".", ""},
	{"%", ""},
	{"=", `write "==" to compare, "=>" before behaviors`},
	{"!", `write "not"`},
	{"#", `comments begin with "//"`},
	{"-", "numbers aren't negative, and names have no signs in them"},
	{"'", `write double quotes`},
	{"_", "names begin with a letter"},
}

// next gives the next token; at the end of the text it gives eof, again and again.
func (l *lexer) next() token {
	for {
		l.skip(len(l.rest()) - len(bytes.TrimLeft(l.rest(), " \t\r\n")))
		rest := l.rest()
		switch {
		case len(rest) == 0:
			return token{Span: Span{l.at, l.at}, kind: eof}
		case bytes.HasPrefix(rest, []byte("//")):
			n := bytes.IndexByte(rest, '\n')
			if n < 0 {
				n = len(rest)
			}
			n = len(bytes.TrimRight(rest[:n], " \t\r"))
			if t, ok := l.comment(n); !ok {
				return t
			}
		case bytes.HasPrefix(rest, []byte("/*")):
			n := bytes.Index(rest[2:], []byte("*/"))
			if n < 0 {
				t := l.token(illegal, 2)
				t.hint = `the comment has no end: "*/" is missing`
				l.skip(len(l.rest()))
				return t
			}
			if t, ok := l.comment(n + 4); !ok {
				return t
			}
		default:
			return l.one(rest)
		}
	}
}

func (l *lexer) rest() []byte { return l.text[l.at.Offset:] }

// skip goes on by n bytes.
func (l *lexer) skip(n int) {
	for _, c := range l.rest()[:n] {
		l.at.Offset++
		l.at.Column++
		if c == '\n' {
			l.at.Line++
			l.at.Column = 1
		}
	}
}

func (l *lexer) token(k kind, n int) token {
	t := token{kind: k, text: l.whole[l.at.Offset : l.at.Offset+n]}
	t.Pos = l.at
	l.skip(n)
	t.End = l.at
	return t
}

func (l *lexer) comment(n int) (token, bool) {
	k := punct
	if !utf8.Valid(l.rest()[:n]) {
		k = illegal
	}
	t := l.token(k, n)
	if k == illegal {
		t.text, t.hint = strings.ToValidUTF8(t.text, "?"), "the comment is not in UTF-8"
		return t, false
	}
	l.comments = append(l.comments, Comment{Span: t.Span, Text: t.text})
	return t, true
}

// one gives the token that the text begins with.
func (l *lexer) one(rest []byte) token {
	switch c := rest[0]; {
	case letter(c):
		n := 1
		for n < len(rest) && (letter(rest[n]) || digit(rest[n]) || rest[n] == '_') {
			n++
		}
		t := l.token(word, n)
		if n > maxName {
			t.kind, t.hint = illegal, fmt.Sprintf("names have at most %d letters", maxName)
		}
		return t
	case digit(c):
		n := digits(rest, 0)
		if n+1 < len(rest) && rest[n] == '.' && digit(rest[n+1]) {
			n = digits(rest, n+1)
		}
		for n < len(rest) && letter(rest[n]) {
			n++
		}
		return l.token(number, n)
	case c == '"':
		n := 1
		for n < len(rest) && rest[n] != '"' && rest[n] != '\\' && rest[n] >= ' ' {
			n++
		}
		if n == len(rest) || rest[n] != '"' {
			t := l.token(illegal, n)
			t.text = strings.ToValidUTF8(t.text, "?")
			t.hint = "a text in quotes ends in its line, with a quote, and has no backslash"
			return t
		}
		t := l.token(quoted, n+1)
		if !utf8.ValidString(t.text) {
			t.kind, t.text, t.hint = illegal, strings.ToValidUTF8(t.text, "?"), "the name is not in UTF-8"
		}
		return t
	}
	for _, p := range puncts {
		if bytes.HasPrefix(rest, []byte(p.text)) {
			t := l.token(punct, len(p.text))
			if p.hint != "" {
				t.kind, t.hint = illegal, p.hint
			}
			return t
		}
	}
	r, n := utf8.DecodeRune(rest)
	t := l.token(illegal, n)
	if r == utf8.RuneError {
		t.text, t.hint = fmt.Sprintf("\\x%02x", rest[0]), "policies are in UTF-8"
	} else if r < ' ' || r == 0x7f {
		t.text = fmt.Sprintf("\\x%02x", rest[0])
	}
	return t
}

func digits(s []byte, n int) int {
	for n < len(s) && digit(s[n]) {
		n++
	}
	return n
}

func letter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }
func digit(c byte) bool  { return '0' <= c && c <= '9' }
