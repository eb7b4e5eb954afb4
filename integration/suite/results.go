package suite

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Outcome is how a test ended.
type Outcome string

// The outcomes that the testing package knows.
const (
	Pass Outcome = "pass"
	Fail Outcome = "fail"
	Skip Outcome = "skip"
)

// Result is the outcome of a test and why it is not a pass. In tests.txt the reason may
// say more than a machine can know.
type Result struct {
	Outcome Outcome
	Reason  string // one line
}

// marker begins a line that the testing package wrote, with -test.v=test2json, and not a
// test that printed something similar.
const marker = "\x16"

// parser reads the output of a test binary as it comes. It is an io.Writer for one
// goroutine, except end.
type parser struct {
	mu      sync.Mutex
	results map[string]Result // of top-level tests
	rest    io.Writer         // gets everything too
	line    []byte            // not ended yet
	running string            // the top-level test that wrote last
	started []string          // and not ended
	said    string            // what it said last
	heard   func()            // if not nil, is called for each write
}

func (p *parser) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.heard != nil {
		p.heard()
	}
	p.line = append(p.line, b...)
	for {
		line, rest, ok := bytes.Cut(p.line, []byte("\n"))
		if !ok {
			break
		}
		p.take(string(line))
		p.line = rest
	}
	if p.rest != nil {
		return p.rest.Write(b)
	}
	return len(b), nil
}

func (p *parser) take(line string) {
	// A marker may follow output without a newline.
	i := strings.Index(line, marker)
	if i < 0 {
		if said := strings.TrimSpace(line); said != "" && strings.HasPrefix(line, "    ") && !strings.Contains(said, "level=") {
			p.said = said
		}
		return
	}
	fields := strings.Fields(line[i+len(marker):])
	if len(fields) < 3 {
		return
	}
	test, _, sub := strings.Cut(fields[2], "/")
	switch kind := strings.Join(fields[:2], " "); kind {
	case "=== RUN", "=== CONT", "=== NAME":
		p.running = test
		if kind == "=== RUN" && !sub {
			p.started = append(p.started, test)
			p.said = ""
		}
	case "--- PASS:", "--- FAIL:", "--- SKIP:":
		if sub {
			return
		}
		outcome := Outcome(strings.ToLower(strings.Trim(fields[1], ":")))
		result := Result{Outcome: outcome}
		if outcome != Pass {
			result.Reason = p.said
		}
		p.results[test] = result
		p.started = slices.DeleteFunc(p.started, func(s string) bool { return s == test })
		p.said = ""
	}
}

// end is to be called when the binary has ended. If it died, those under way failed: the
// one that ran, or if that is not known all that had started.
func (p *parser) end(died bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !died {
		return
	}
	guilty := p.started
	if slices.Contains(guilty, p.running) {
		guilty = []string{p.running}
	}
	for _, test := range guilty {
		p.results[test] = Result{Fail, "the test binary died"}
	}
}

// ParseList reads tests.txt: on each line a test, its outcome and, for what is not a
// pass, why. A line that begins with # is a comment.
func ParseList(text []byte) (map[string]Result, error) {
	list := map[string]Result{}
	for lines, n := bufio.NewScanner(bytes.NewReader(text)), 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, rest, _ := strings.Cut(line, " ")
		outcome, reason, _ := strings.Cut(strings.TrimSpace(rest), " ")
		switch Outcome(outcome) {
		case Pass, Fail, Skip:
		default:
			return nil, fmt.Errorf("line %d: outcome of %s is %q, want pass, fail or skip", n, name, outcome)
		}
		if _, ok := list[name]; ok {
			return nil, fmt.Errorf("line %d: %s is there twice", n, name)
		}
		if Outcome(outcome) != Pass && reason == "" {
			return nil, fmt.Errorf("line %d: say why %s is %s", n, name, outcome)
		}
		list[name] = Result{Outcome(outcome), strings.TrimSpace(reason)}
	}
	return list, nil
}

const heading = `# What containerd's own client tests do with stock runc, without CRIU and without
# CAP_SYS_RESOURCE. Written by: go test -tags suite -run TestSuite ./integration/suite
# -args -runtime io.containerd.runc.v2 -update. A reason stays until the outcome changes.
`

// WriteList is the inverse of ParseList. Reasons in old that still apply are kept.
func WriteList(w io.Writer, list, old map[string]Result) error {
	if _, err := io.WriteString(w, heading); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(list)) {
		r := list[name]
		if was, ok := old[name]; ok && was.Outcome == r.Outcome {
			r.Reason = was.Reason
		}
		line := strings.TrimSpace(fmt.Sprintf("%-60s %s %s", name, r.Outcome, r.Reason))
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

// Worse lists, sorted, the tests that pass in want and do not in got, with what they did.
func Worse(want, got map[string]Result) []string {
	var worse []string
	for name, w := range want {
		if w.Outcome != Pass || got[name].Outcome == Pass {
			continue
		}
		g, ok := got[name]
		if !ok {
			g = Result{Fail, "was not run"}
		}
		worse = append(worse, fmt.Sprintf("%s: %s: %s", name, g.Outcome, g.Reason))
	}
	slices.Sort(worse)
	return worse
}
