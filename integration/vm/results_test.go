package vm

import (
	"strings"
	"testing"
)

func TestVerdict(t *testing.T) {
	for name, tt := range map[string]struct {
		results string   // as they come over a serial line
		want    []string // the smoke tests to be run
		err     string   // in the error; none is wanted if empty
	}{
		"all passed":         {"PEREGRINE-VM: pass a\r\nPEREGRINE-VM: pass b\r\nPEREGRINE-VM: ok\r\n", []string{"a", "b"}, ""},
		"some failed":        {"PEREGRINE-VM: fail a 3\r\nPEREGRINE-VM: pass b\r\nPEREGRINE-VM: failed 1\r\n", []string{"a", "b"}, "smoke tests failed: a (exit status 3)"},
		"nothing":            {"", []string{"a"}, "without a verdict after 0 of 1"},
		"cut off":            {"PEREGRINE-VM: pass a\r\n", []string{"a"}, "without a verdict after 1 of 1"},
		"cut off in a line":  {"PEREGRINE-VM: pass a\r\nPEREGRINE-VM: o", []string{"a"}, "without a verdict"},
		"failed, cut off":    {"PEREGRINE-VM: fail a 1\r\n", []string{"a", "b"}, "smoke tests failed: a"},
		"ok, but of others":  {"PEREGRINE-VM: pass a\r\nPEREGRINE-VM: ok\r\n", []string{"a", "b"}, `it was to run ["a" "b"]`},
		"ok, but one failed": {"PEREGRINE-VM: fail a 1\r\nPEREGRINE-VM: ok\r\n", []string{"a"}, "smoke tests failed: a"},
		"failed 0":           {"PEREGRINE-VM: pass a\r\nPEREGRINE-VM: failed 0\r\n", []string{"a"}, "verdict is"},
		"ok is not last":     {"PEREGRINE-VM: ok\r\nPEREGRINE-VM: pass a\r\n", []string{"a"}, "without a verdict"},
		"noise":              {"\x00\r\nPEREGRINE-VM: pass a\r\nx PEREGRINE-VM: fail b 1\r\nPEREGRINE-VM: ok\r\n\r\n", []string{"a"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := verdict(strings.NewReader(tt.results), tt.want)
			switch {
			case tt.err == "" && err != nil:
				t.Errorf("got %v, want none", err)
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("got %v, want one with %q", err, tt.err)
			}
		})
	}
}

func TestTail(t *testing.T) {
	var tail tail
	for _, part := range []string{strings.Repeat("x", tailSize+10), "one\r\n", "two\r\n"} {
		if n, err := tail.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("wrote %d of %d bytes: %v", n, len(part), err)
		}
	}
	if got := tail.String(); len(got) != tailSize-2 || !strings.HasSuffix(got, "xone\ntwo\n") {
		t.Errorf("kept %d bytes that end in %q", len(got), got[max(0, len(got)-20):])
	}
}

func TestSmokeNamesAreInTheGuestsOrder(t *testing.T) {
	got := strings.Join(smokeNames([]string{"b/20-x.sh", "a/10-y.sh", "100-z.sh"}), " ")
	if want := "10-y.sh 100-z.sh 20-x.sh"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
