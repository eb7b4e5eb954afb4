package parity

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
)

func TestCompare(t *testing.T) {
	for _, test := range []struct {
		name string
		a, b Facts
		want []Difference
	}{
		{"both empty", Facts{}, Facts{}, nil},
		{"equal", Facts{"s": {"a", "b"}}, Facts{"s": {"a", "b"}}, nil},
		{"changed", Facts{"s": {"a", "b", "c"}}, Facts{"s": {"a", "x", "c"}}, []Difference{{"s", "-", "b"}, {"s", "+", "x"}}},
		{"more", Facts{"s": {"a"}}, Facts{"s": {"a", "b"}}, []Difference{{"s", "+", "b"}}},
		{"fewer", Facts{"s": {"a", "b"}}, Facts{"s": {"b"}}, []Difference{{"s", "-", "a"}}},
		{"another order", Facts{"s": {"a", "b"}}, Facts{"s": {"b", "a"}}, []Difference{{"s", "-", "a"}, {"s", "+", "a"}}},
		{"section missing", Facts{"s": {"a"}}, Facts{}, []Difference{{"s", "-", "a"}}},
		{"message", Facts{"message": {"a"}}, Facts{"message": {"b"}}, nil},
	} {
		if got := Compare(test.a, test.b); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

// TestCompareFindsAll: what differs, taken from the one and added to the other, makes them
// equal in length, and no change goes unseen.
func TestCompareFindsAll(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	list := func() []string {
		lines := make([]string, random.IntN(8))
		for i := range lines {
			lines[i] = string(rune('a' + random.IntN(4)))
		}
		return lines
	}
	for range 2000 {
		a, b := list(), list()
		differences := Compare(Facts{"s": a}, Facts{"s": b})
		if slices.Equal(a, b) != (len(differences) == 0) {
			t.Fatalf("%q and %q: %v", a, b, differences)
		}
		balance := 0
		for _, d := range differences {
			if d.Sign == "+" {
				balance++
			} else {
				balance--
			}
		}
		if len(a)+balance != len(b) {
			t.Fatalf("%q and %q: %v", a, b, differences)
		}
	}
}

func TestCheck(t *testing.T) {
	c := Case{Newer: Facts{"process": {"scheduler 3"}}}
	for _, test := range []struct {
		name  string
		facts Facts
		want  int
	}{
		{"done", Facts{"outcome": {"exit 0"}, "process": {"pid 1", "scheduler 3"}}, 0},
		{"ignored", Facts{"outcome": {"exit 0"}, "process": {"scheduler 0"}}, 1},
		{"refused", Facts{"outcome": {"create failed", "not implemented"}}, 0},
	} {
		if got := Check(c, test.facts); len(got) != test.want {
			t.Errorf("%s: got %v, want %d of them", test.name, got, test.want)
		}
	}
}

func TestCause(t *testing.T) {
	for message, want := range map[string]string{
		`exec: "x": executable file not found in $PATH`:    "executable file not found",
		`exec /bin/text: exec format error`:                "exec format error",
		`chdir to cwd: no such file or directory: unknown`: "no such file or directory",
		`Permission Denied`:                                "permission denied",
		`something else`:                                   "other",
	} {
		if got := cause(message); got != want {
			t.Errorf("%q: got %q, want %q", message, got, want)
		}
	}
}

func TestClass(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("x: %w", errdefs.ErrNotFound), "not found"},
		{fmt.Errorf("x: %w", errdefs.ErrInvalidArgument), "invalid argument"},
		{errors.New("x"), "unknown"},
	} {
		if got := class(test.err); got != test.want {
			t.Errorf("%v: got %q, want %q", test.err, got, test.want)
		}
	}
}

// TestCases: containers of two cases must not have one name.
func TestCases(t *testing.T) {
	names := map[string]string{}
	for _, c := range Cases() {
		if other, ok := names[c.id()]; ok {
			t.Errorf("%q and %q have the id %s", c.Name, other, c.id())
		}
		if len(c.id()) > 76 {
			t.Errorf("%q is longer than containerd allows", c.Name)
		}
		names[c.id()] = c.Name
	}
	t.Logf("%d cases", len(names))
}
