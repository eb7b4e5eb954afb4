package offer

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/utils"
)

func TestID(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := newID()
		if err := utils.ValidateContainerID(id); err != nil {
			t.Fatal(err)
		}
		if seen[id] || !isID(id) {
			t.Fatalf("%q twice, or none", id)
		}
		seen[id] = true
	}
	for _, name := range []string{"", "offer-", "offer", "c1", "offer-a", "offer-A/B", "offer-A\n", "xoffer-A", "offer-AB1AB"} {
		if isID(name) {
			t.Errorf("%q is an ID", name)
		}
	}
}

func TestAbandonedRule(t *testing.T) {
	const patience = time.Minute
	for _, c := range []struct {
		use
		want bool
	}{
		{use{}, false},
		{use{without: patience - 1}, false},
		{use{without: patience}, true},
		{use{owned: true, without: patience}, false},
		{use{owned: true, bundle: true, gone: true, without: patience}, false},
		{use{bundle: true, without: patience}, false},
		{use{bundle: true, gone: true}, true},
	} {
		if got := c.abandoned(patience); got != c.want {
			t.Errorf("%+v: %t", c.use, got)
		}
	}
}

func TestPace(t *testing.T) {
	p := defaultPace()
	began := time.Unix(1000, 0)
	for _, c := range []struct{ taken, want time.Duration }{
		{0, p.quiet},
		{-time.Hour, p.quiet - time.Hour},
		{p.longest - p.quiet, p.longest},
		{p.longest, p.longest},
	} {
		if got := p.due(began, began.Add(c.taken)).Sub(began); got != c.want {
			t.Errorf("taken after %s: due after %s, want %s", c.taken, got, c.want)
		}
	}
	last := time.Duration(0)
	for i := 1; i < 100; i++ {
		wait := p.wait(i)
		if wait < last || wait < p.retry || wait > p.rest {
			t.Errorf("after %d failures: %s", i, wait)
		}
		last = wait
	}
	if last != p.rest || p.wait(2) != 2*p.retry {
		t.Errorf("waits %s, at last %s", p.wait(2), last)
	}
}

func TestReasons(t *testing.T) {
	p := defaultPace()
	var f failure
	a, b := errors.New("a"), errors.New("b")
	for i, c := range []struct {
		err  error
		news bool
	}{{a, true}, {a, false}, {b, true}, {a, false}, {b, false}} {
		if got := f.again(time.Unix(0, 0), c.err, p); got != c.news {
			t.Errorf("%d: %v is new: %t", i, c.err, got)
		}
	}
	for i := range 1000 {
		f.again(time.Unix(0, 0), fmt.Errorf("%d", i), p)
	}
	if len(f.reasons) > 102 {
		t.Errorf("remembers %d reasons", len(f.reasons))
	}
}

func TestParseOwner(t *testing.T) {
	for text, want := range map[string]bool{
		"1 2\n": true, "1 2": true, "": false, "\n": false, "1": false, "1 ": false, " 1 2": false,
		"0 2": false, "-1 2": false, "1 -2": false, "1 2 3": false, "a b": false, "1 2\n\n": false,
	} {
		if pid, start, ok := parseOwner(text); ok != want || ok && (pid != 1 || start != 2) {
			t.Errorf("%q: %d, %d, %t", text, pid, start, ok)
		}
	}
}

func TestParseBundle(t *testing.T) {
	for text, want := range map[string]string{
		`{"id":"c","namespace":"default","bundle":"/b","pid":7}`: "/b",
		`{"bundle":"/b","more":[]}`:                              "/b",
		`{"bundle":"b"}`:                                         "",
		`{"bundle":7}`:                                           "",
		`{"id":"c"}`:                                             "",
		`{`:                                                      "",
		``:                                                       "",
	} {
		if got, ok := parseBundle([]byte(text)); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %t", text, got, ok)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	own, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(own)
	f.Add([]byte("7 (a ) Z (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20"))
	f.Add([]byte(""))
	f.Add([]byte("7 (a"))
	f.Fuzz(func(t *testing.T, text []byte) {
		state, _, err := parseStat(text)
		if err == nil && state == "" {
			t.Error("no state and no error")
		}
	})
}

func TestParseStat(t *testing.T) {
	state, start, err := parseStat([]byte("7 (a ) Z (b) S 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23\n"))
	if state != "S" || start != 22 || err != nil {
		t.Errorf("%q, %d, %v", state, start, err)
	}
}
