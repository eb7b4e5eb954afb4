package vm

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// verdict reads what /init reported, as guest/init describes it, and returns nil only if
// all the wanted tests passed and the VM said so at the end.
func verdict(results io.Reader, want []string) error {
	text, err := io.ReadAll(results)
	if err != nil {
		return fmt.Errorf("read the results: %w", err)
	}
	var passed, failed []string
	last := ""
	for line := range strings.Lines(string(text)) {
		report, ours := strings.CutPrefix(strings.TrimSpace(line), "PEREGRINE-VM: ")
		if !ours {
			continue
		}
		last = report
		if name, ok := strings.CutPrefix(report, "pass "); ok {
			passed = append(passed, name)
		} else if rest, ok := strings.CutPrefix(report, "fail "); ok {
			name, status, _ := strings.Cut(rest, " ")
			failed = append(failed, name+" (exit status "+status+")")
		}
	}
	if last == "ok" && slices.Equal(passed, want) {
		return nil
	}
	var errs []error
	if len(failed) > 0 {
		errs = append(errs, fmt.Errorf("smoke tests failed: %s", strings.Join(failed, ", ")))
	}
	if last != "ok" && !strings.HasPrefix(last, "failed ") {
		errs = append(errs, fmt.Errorf("the VM ended without a verdict after %d of %d smoke tests: a kernel panic, or an error in /init",
			len(passed)+len(failed), len(want)))
	}
	if len(errs) == 0 {
		return fmt.Errorf("the VM's verdict is %q for the smoke tests %q, but it was to run %q", last, passed, want)
	}
	return errors.Join(errs...)
}

// tailSize is how much of the console an error shows, in bytes.
const tailSize = 4 << 10

// tail is an io.Writer that keeps the end of what is written to it. It is not safe for
// concurrent use.
type tail struct{ kept []byte }

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - tailSize; over > 0 {
		t.kept = slices.Delete(t.kept, 0, over)
	}
	return len(p), nil
}

// String returns the kept end, without the carriage returns of a serial line.
func (t *tail) String() string { return strings.ReplaceAll(string(t.kept), "\r", "") }
