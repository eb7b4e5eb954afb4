package vet

import (
	"fmt"
	"io"
	"strings"

	"github.com/peregrine-dev/peregrine/plasma/epl"
)

// String gives LINE:COLUMN: severity: message (hint) [code].
func (f Finding) String() string {
	s := fmt.Sprintf("%s: %s: %s", f.Pos, f.Severity, f.Message)
	if f.Hint != "" {
		s += " (" + f.Hint + ")"
	}
	return s + " [" + f.Code + "]"
}

// Print writes findings with the parts of the text that they are about. The file is the text's
// name.
func Print(w io.Writer, file string, text []byte, findings []Finding) error {
	var b strings.Builder
	line := func(at epl.Span, message string) {
		fmt.Fprintf(&b, "%s:%s\n%s", file, message, at.Excerpt(text))
	}
	for _, f := range findings {
		line(f.Span, f.String())
		for _, r := range f.Related {
			line(r.Span, fmt.Sprintf("%s: %s", r.Pos, r.Message))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Refused tells whether a policy with these findings is refused.
func Refused(findings []Finding) bool {
	for _, f := range findings {
		if f.Severity == Error {
			return true
		}
	}
	return false
}
