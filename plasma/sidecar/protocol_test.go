package sidecar

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/host"
)

func TestAnswers(t *testing.T) {
	long := `"` + strings.Repeat("x", host.MaxBody) + `"`
	for _, c := range []struct{ name, text, want string }{
		{"nothing", `{}`, ""},
		{"all", `{"body": [1], "state": {"a": 1}, "sends": [{"to": {"type": "T", "key": "k"}, "function": "f", "body": 1}],
			"timers": [{"name": "t", "after": 0.5, "period": 60, "body": "x"}, {"name": "u", "clear": true}],
			"references": {"p": [{"type": "T", "key": "k"}], "none": []}, "metrics": {"m": 1.5}}`, ""},
		{"error", `{"error": "no"}`, ""},
		{"error and state", `{"error": "no", "state": null}`, "nothing else"},
		{"error and sends", `{"error": "no", "sends": [{}]}`, "nothing else"},
		{"misspelt", `{"sate": 1}`, `"sate"`},
		{"two values", `{} {}`, "more than one"},
		{"no value", ``, "EOF"},
		{"no object", `[]`, "array"},
		{"not UTF-8", "{\"body\": \"\xff\"}", "UTF-8"},
		{"long body", `{"body": ` + long + `}`, "the body has"},
		{"long state", `{"state": "` + strings.Repeat("x", host.MaxState) + `"}`, "the state has"},
		{"long body of a send", `{"sends": [{"to": {"type": "T", "key": "k"}, "function": "f", "body": ` + long + `}]}`, "send 1: the body"},
		{"nobody", `{"sends": [{"function": "f"}]}`, "send 1: a name is empty"},
		{"many sends", `{"sends": [` + strings.Repeat("{},", maxSends) + `{}]}`, "1025 sends"},
		{"many timers", `{"timers": [` + strings.Repeat("{},", maxTimers) + `{}]}`, "65 timers"},
		{"timer in the past", `{"timers": [{"name": "t", "after": -1}]}`, "-1 s"},
		{"timer too often", `{"timers": [{"name": "t", "period": 0.0000001}]}`, "a millisecond"},
		{"timer too late", `{"timers": [{"name": "t", "after": 1e12}]}`, "1e+12 s"},
		{"timer without a name", `{"timers": [{"after": 1}]}`, "a name is empty"},
		{"cleared later", `{"timers": [{"name": "t", "after": 1, "clear": true}]}`, "cleared"},
		{"reference to nobody", `{"references": {"p": [{"type": "T"}]}}`, `references "p": a name`},
		{"many references", `{"references": {"p": [` + strings.Repeat("{\"type\":\"T\",\"key\":\"k\"},", maxReferences) + `{}]}}`, "257 references"},
		{"many metrics", `{"metrics": {` + many(maxMetrics+1) + `}}`, "17 metrics"},
		{"number too large", `{"metrics": {"m": 1e999}}`, "1e999"},
		{"metric without a name", `{"metrics": {"": 1}}`, "metrics: a name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := decodeAnswer([]byte(c.text))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !errdefs.IsInvalidArgument(err)) {
				t.Errorf("%v: want %q", err, c.want)
			}
		})
	}
	a, err := decodeAnswer([]byte(`{"state": null}`))
	if err != nil || string(a.State) != "null" {
		t.Errorf("state null: %q, %v", a.State, err)
	}
	if a, err = decodeAnswer([]byte(`{"body": null}`)); err != nil || a.State != nil {
		t.Errorf("no state: %q, %v", a.State, err)
	}
}

func many(n int) string {
	var members []string
	for i := range n {
		members = append(members, fmt.Sprintf(`"m%d": 1`, i))
	}
	return strings.Join(members, ",")
}

// What is asked keeps all that the body and the state say, whatever it is.
func TestRequestsKeepBodies(t *testing.T) {
	for _, body := range []string{`null`, `"<&>\u2028"`, `{"a": [1, 2.50, 1e3, 123456789012345678901]}`, ` 1 `} {
		text, err := encode(&turnRequest{Turn: "t", Body: json.RawMessage(body)})
		if err != nil {
			t.Fatal(err)
		}
		back := &turnRequest{}
		if err := decode(text, back); err != nil {
			t.Fatal(err)
		}
		if got, want := string(back.Body), strings.ReplaceAll(body, " ", ""); got != want {
			t.Errorf("%s became %s", want, got)
		}
		if string(back.State) != "null" || back.From != nil {
			t.Errorf("a new actor, and a client: %s", text)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"body": 1, "state": {}, "sends": [{"to": {"type": "T", "key": "k"}, "function": "f"}]}`))
	f.Add([]byte(`{"timers": [{"name": "t", "after": 1e308}], "references": {"p": [{"type": "T", "key": "k"}]}}`))
	f.Add([]byte(`{"error": "no"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := decodeAnswer(text)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%v", err)
			}
			return
		}
		for _, b := range append([]json.RawMessage{a.Body, a.State}, bodies(a)...) {
			if b != nil && (!json.Valid(b) || !utf8.Valid(b)) {
				t.Errorf("%q isn't JSON", b)
			}
		}
		for _, timer := range a.Timers {
			if seconds(timer.After) < 0 || seconds(timer.Period) < 0 {
				t.Errorf("%v", timer)
			}
		}
	})
}

func bodies(a *turnAnswer) (b []json.RawMessage) {
	for _, s := range a.Sends {
		b = append(b, s.Body)
	}
	return b
}

func FuzzTypes(f *testing.F) {
	f.Add([]byte(`{"types": [{"name": "T", "durable": "none", "functions": ["f"]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		a := &typesAnswer{}
		if decode(text, a) != nil || a.check() != nil {
			return
		}
		for _, one := range a.Types {
			if one.Name == "" {
				t.Errorf("%q", text)
			}
		}
	})
}

func TestTypes(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`{"types": [{"name": "T"}]}`, ""},
		{`{"types": [{"name": "T", "durable": "periodic", "functions": ["f", "g"]}, {"name": "U", "durable": "none"}]}`, ""},
		{`{"types": []}`, "0 types"},
		{`{"types": [{"name": "T"}, {"name": "T"}]}`, "twice"},
		{`{"types": [{"name": ""}]}`, "empty"},
		{`{"types": [{"name": "T", "functions": [""]}]}`, "empty"},
		{`{"types": [{"name": "T", "durable": "forever"}]}`, `"forever"`},
		{`{"types": [{"name": "T", "functions": [` + strings.Repeat(`"f",`, maxTypeCount) + `"f"]}]}`, "257 functions"},
		{`{"type": []}`, `"type"`},
	} {
		a := &typesAnswer{}
		err := decode([]byte(c.text), a)
		if err == nil {
			err = a.check()
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%.80s: %v, want %q", c.text, err, c.want)
		}
	}
}

func TestPaths(t *testing.T) {
	for _, c := range []struct{ path, key, want string }{
		{"T/k/f", "k", ""},
		{"T/a%2Fb/f", "a/b", ""},
		{"T/%C3%A9%20/f", "é ", ""},
		{"T/../f", "..", ""},
		{"T//f", "", "empty"},
		{"T/k", "", "2 parts"},
		{"T/k/f/", "", "4 parts"},
		{"T/%zz/f", "", "escape"},
		{"T/%ff/f", "", "UTF-8"},
		{"T/" + strings.Repeat("k", host.MaxName+1) + "/f", "", "1025 bytes"},
	} {
		to, function, err := parsePath(c.path)
		switch {
		case c.want == "" && (err != nil || to.Type != "T" || to.Key != c.key || function != "f"):
			t.Errorf("%s: %v %q, %v", c.path, to, function, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !errdefs.IsInvalidArgument(err)):
			t.Errorf("%s: %v, want %q", c.path, err, c.want)
		}
	}
}

func FuzzPath(f *testing.F) {
	f.Add("T/k/f")
	f.Add("T/%2F%00/f")
	f.Fuzz(func(t *testing.T, path string) {
		to, function, err := parsePath(path)
		if err != nil {
			return
		}
		again, g, err := parsePath(escaped(to.Type, to.Key, function))
		if err != nil || again != to || g != function {
			t.Errorf("%q is %v %q, and then %v %q, %v", path, to, function, again, g, err)
		}
	})
}

func escaped(parts ...string) string {
	var b strings.Builder
	for i, p := range parts {
		if i > 0 {
			b.WriteByte('/')
		}
		for _, c := range []byte(p) {
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	return b.String()
}
