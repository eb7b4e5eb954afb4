package epl

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got:\n%s\nwant:\n%s", file, got, want)
	}
}

// each runs a test for every policy in a folder.
func each(t *testing.T, folder string, do func(t *testing.T, base string, text []byte)) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", folder, "*.epl"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".epl"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			do(t, strings.TrimSuffix(file, ".epl"), text)
		})
	}
}

func TestProductions(t *testing.T) {
	each(t, "productions", func(t *testing.T, base string, text []byte) {
		p, err := Parse("x.epl", text, Full)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, base+".tree", dump(p))
		formatted, err := Format("x.epl", text, Full)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, base+".formatted", string(formatted))
		again, err := Format("x.epl", formatted, Full)
		if err != nil || string(again) != string(formatted) {
			t.Errorf("formatted again: %v\n%s", err, again)
		}
		q, err := Parse("x.epl", formatted, Full)
		if err != nil || dump(q) != dump(p) {
			t.Errorf("formatting changed the tree: %v\n%s", err, dump(q))
		}
		spans(t, p, text)
	})
}

// All that a policy in the paper's language has, is in the paper's mode.
func TestPaper(t *testing.T) {
	text, err := os.ReadFile("testdata/productions/paper.epl")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse("paper.epl", text, Paper); err != nil {
		t.Error(err)
	}
}

func TestErrors(t *testing.T) {
	each(t, "errors", func(t *testing.T, base string, text []byte) {
		mode := Full
		if strings.HasSuffix(base, ".paper") {
			mode = Paper
		}
		p, err := Parse(filepath.Base(base)+".epl", text, mode)
		if p == nil {
			t.Error("no policy beside the errors")
		}
		var list Errors
		if !errors.As(err, &list) {
			t.Fatalf("error %v", err)
		}
		var b strings.Builder
		for _, e := range list {
			fmt.Fprintf(&b, "%v\n%s", e, e.Excerpt(text))
		}
		golden(t, base+".golden", b.String())
		var one *Error
		if !errors.As(err, &one) {
			t.Error("errors have no first one")
		}
	})
}

// spans checks that the parts of a text are where the tree says.
func spans(t *testing.T, p *Policy, text []byte) {
	t.Helper()
	at := func(s Span, want string) {
		t.Helper()
		if got := string(text[s.Pos.Offset:s.End.Offset]); got != want {
			t.Errorf("%v: %q, want %q", s.Pos, got, want)
		}
		line := strings.Split(string(text), "\n")[s.Pos.Line-1]
		if !strings.HasPrefix(line[s.Pos.Column-1:], strings.Split(want, "\n")[0]) {
			t.Errorf("%v isn't where %q is", s.Pos, want)
		}
	}
	for _, c := range p.Comments {
		at(c.Span, c.Text)
	}
	for _, r := range p.Rules {
		if r.Name != "" {
			at(r.NameAt, r.Name)
		}
		for _, b := range r.Do {
			at(b.VerbAt, string(b.Verb))
			if b.Resource != "" {
				at(b.ResourceAt, b.Resource)
			}
		}
		Walk(r.When, func(c Cond) {
			for _, a := range Actors(c) {
				at(a.Span, a.String())
			}
			switch c := c.(type) {
			case *Compare:
				at(c.Value.Span, c.Value.Text)
				if f := c.Feature; f.Stat != "" {
					at(f.StatAt, f.Stat)
				}
			case *In:
				at(c.NameAt, c.Name)
				at(c.Span, String(c))
			}
		})
	}
}

func TestBounds(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want string
	}{
		"size":        {strings.Repeat(" ", maxText+1), "bytes"},
		"parentheses": {strings.Repeat("(", 1000) + "true", "deep"},
		"nots":        {strings.Repeat("not ", 1000) + "true => ;", "deep"},
		"terms":       {strings.Repeat("true and ", 1000) + "true => ;", "more than 1000 parts"},
		"rules":       {strings.Repeat("true=>;", maxRules+1), "more than 10000 rules"},
		"errors":      {strings.Repeat("x;", 1000), "want"},
		"name":        {strings.Repeat("x", 1000) + ".cpu.perc > 3 => ;", "want a condition"},
		"one byte":    {strings.Repeat("\x01", 1000), "want"},
		"signs":       {strings.Repeat("=> ", 300000), "want"},
		"words":       {"true => " + strings.Repeat("pin ", 200000), "want"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("x", []byte(tt.text), Full)
			var list Errors
			if !errors.As(err, &list) || !strings.Contains(list[0].Message, tt.want) {
				t.Fatalf("error %v", err)
			}
			if len(list) > maxErrors {
				t.Errorf("%d errors", len(list))
			}
		})
	}
	if _, err := Parse("x", []byte(strings.Repeat("true=>;", maxRules)), Full); err != nil {
		t.Error(err)
	}
}

func TestNearest(t *testing.T) {
	for name, want := range map[string]string{"Foldr": "Folder", "foler": "Folder", "Flie": "File", "x": "", "Zebra": "", "Folder": ""} {
		if got := Nearest(name, []string{"Folder", "File"}); got != want {
			t.Errorf("Nearest(%s) is %q, want %q", name, got, want)
		}
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string][3]bool{
		"Folder": {true, true, true}, "pin": {false, true, true}, "a b": {false, false, true}, "": {}, "_a": {false, false, true},
		`a"b`: {}, "a\nb": {}, "größe": {false, false, true}, "\xff": {}, strings.Repeat("x", 101): {},
	} {
		if got := [3]bool{IsName(name), IsMember(name), IsMetric(name)}; got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}
