package stdio

import "testing"

// FuzzParse checks that a plain path is taken as it is, and that an answer is an error
// or has a scheme.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "/run/a%zz", "fifo:///run/x", "file://%zz", "binary:///bin/log?a=b", "a:b", "relative", "://"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		scheme, path, u, err := parse(s)
		if err != nil {
			return
		}
		if scheme == "" || (u == nil && (scheme != "fifo" || path != s)) {
			t.Errorf("parse(%q) = %q, %q, %v", s, scheme, path, u)
		}
	})
}
