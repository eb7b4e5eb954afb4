package epl

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Error is one mistake in a text.
type Error struct {
	Span
	File string
	// Message says what is wrong. For most mistakes it is "want Want, found Found".
	Message     string
	Want, Found string
	Hint        string // what to do, or ""
}

// Error gives FILE:LINE:COLUMN: message (hint).
func (e *Error) Error() string {
	s := e.Pos.String() + ": " + e.Message
	if e.File != "" {
		s = e.File + ":" + s
	}
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// Errors are all mistakes of a text, in its order; never empty.
type Errors []*Error

// Error gives a line for each.
func (l Errors) Error() string {
	lines := make([]string, len(l))
	for i, e := range l {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap is for errors.As.
func (l Errors) Unwrap() []error {
	all := make([]error, len(l))
	for i, e := range l {
		all[i] = e
	}
	return all
}

// excerptWidth is how much of a line an excerpt shows.
const excerptWidth = 120

// Excerpt gives the line of text where the span begins, and below it a line that marks the
// span's part of it. It is "" if the span isn't in text.
func (s Span) Excerpt(text []byte) string {
	if s.Pos.Offset > len(text) || s.Pos.Line < 1 {
		return ""
	}
	begin := bytes.LastIndexByte(text[:s.Pos.Offset], '\n') + 1
	line := text[begin:]
	if i := bytes.IndexByte(line, '\n'); i >= 0 {
		line = line[:i]
	}
	from := s.Pos.Offset - begin
	to := min(max(s.End.Offset-begin, from), len(line))
	// Long lines are shown around the span.
	if cut := from - excerptWidth/2; cut > 0 && len(line) > excerptWidth {
		line, from, to = line[cut:], from-cut, to-cut
	}
	if len(line) > excerptWidth {
		line, to = line[:excerptWidth], min(to, excerptWidth)
	}
	var below strings.Builder
	for _, r := range string(line[:from]) {
		if r == '\t' {
			below.WriteByte('\t')
		} else {
			below.WriteByte(' ')
		}
	}
	below.WriteString(strings.Repeat("^", max(1, utf8.RuneCount(line[from:max(from, to)]))))
	shown := strings.TrimRight(strings.ToValidUTF8(string(line), "?"), "\r")
	return fmt.Sprintf("    %s\n    %s\n", shown, below.String())
}

// maxCandidates is how many names are tried.
const maxCandidates = 500

// Nearest gives the candidate that is most like the name, and "" if none is like it: for
// hints about misspelt names. Of equals it is the first.
func Nearest(name string, candidates []string) string {
	best, least := "", max(1, len(name)/3)+1
	for _, c := range candidates[:min(len(candidates), maxCandidates)] {
		if c == name || len(c) > maxName || len(name) > maxName || max(len(c)-len(name), len(name)-len(c)) >= least {
			continue
		}
		if d := distance(strings.ToLower(name), strings.ToLower(c)); d < least {
			best, least = c, d
		}
	}
	return best
}

// distance is how many letters have to be put in, left out, changed or swapped with the next
// to make b of a.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
