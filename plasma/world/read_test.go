package world

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

func small(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/small.toml")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestRead(t *testing.T) {
	w, err := Read("small.toml", small(t), os.DirFS("testdata"))
	if err != nil {
		t.Fatal(err)
	}
	if len(w.Actors) != 17 || w.Actors[0].ID != "last" || w.Actors[1].ID != "folder-0" {
		t.Errorf("the actors are %v", w.Actors)
	}
	if a := w.Actors[0]; a.Server != 1 || !a.Fixed || !reflect.DeepEqual(a.Refs["files"], []string{"file-0", "file-1"}) {
		t.Errorf("the actor that is given is %+v", a)
	}
	if a := w.Actors[2]; a.Server != -1 || a.State != 4096 || !reflect.DeepEqual(a.Refs["files"], []string{"file-3", "file-4", "file-5"}) {
		t.Errorf("the second folder is %+v: its files are in turn", a)
	}
	f := w.Types["Folder"].Functions["open"]
	want := Function{
		Service: Service{4 * time.Millisecond, "lognormal", .5}, Bytes: 256,
		Calls: []Call{{Property: "files", Function: "read", Wait: true}},
	}
	if !reflect.DeepEqual(f, want) {
		t.Errorf("open is %+v, want %+v", f, want)
	}
	if s := w.Streams[0]; len(s.Targets) != 5 || s.Targets[0].Weight[0].Value != 1 || At(s.Rate, 15*time.Second) != 105 {
		t.Errorf("the stream of opens is %+v", s)
	}
	if a := w.Streams[1].Arrivals; len(a) != 3 || a[2] != (Arrival{2*time.Second + 1, "file-0"}) {
		t.Errorf("the trace is %v", a)
	}
	if w.Peak != 2 || w.Mean != 1 {
		t.Errorf("it needs %d servers, in the mean %d: 200 calls of 6 ms are 1.2 cores", w.Peak, w.Mean)
	}
	if w.Events[0].Born.ID != "late" || w.Events[2].Recover != 2*time.Second {
		t.Errorf("the events are %+v", w.Events)
	}
}

// TestReadErrors holds that what is wrong is said with its line.
func TestReadErrors(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"no TOML", "[[node]]", "[[node", "small.toml:20:"},
		{"unknown key", "cores = 1\n", "cors = 1\n", `small.toml:10:1: there is no key "server.cors"`},
		{"unknown table", "[costs]", "[cost]", `there is no key "cost`},
		{"no duration", `"4ms"`, `"4 bananas"`, "small.toml:28:11:"},
		{"no size", `"16GiB"`, `"lots"`, `small.toml:24:10: "lots" is no size`},
		{"negative size", `"16GiB"`, `"-1"`, "small.toml:20: node n0:"},
		{"no points", `"0s 10, 30s 200, 1m 50"`, `"0s 10, 30s"`, "small.toml:59:8:"},
		{"points out of order", "30s 200", "3m 200", "small.toml:56: a rate has a point at 1m0s"},
		{"no type", `type = "Folder"` + "\ncount", `type = "Foldr"` + "\ncount", `small.toml:37: actor folder-0: there is no type "Foldr"`},
		{"no function of a stream", `function = "open"`, `function = "opn"`, "small.toml:56: a stream calls Folder.opn"},
		{"no function of a call", `function = "read", wait`, `function = "raed", wait`, "has no function raed"},
		{"no property", `call = [{ property = "files"`, `call = [{ property = "file"`, "small.toml:27: Folder.open calls file.read, and no Folder has"},
		{"no actor", `"file-0", "file-1"`, `"file-0", "file-99"`, `small.toml:49: actor last: its files refer to "file-99"`},
		{"twice", `id = "last"`, `id = "file-3"`, `two actors are "file-3"`},
		{"no such server", "server = 1", "server = 2", "small.toml:49: actor last is on server 2"},
		{"many", "count = 12", "count = 1_000_000_000", "small.toml:44: a population of 1000000000"},
		{"more references than actors", "count = 3 }", "count = 13 }", "small.toml:37: 13 references to File"},
		{"no shape", `"lognormal"`, `"bell"`, `small.toml:27: Folder.open: there is no shape "bell"`},
		{"long service", `"2ms"`, `"2000h"`, "small.toml:34: File.read: its service is"},
		{"events out of order", `at = "40s"`, `at = "4s"`, "small.toml:75: the event at 4s"},
		{"no node", `"server 1"`, `"server one"`, `small.toml:75: "server one" fails`},
		{"not born", `id = "last", to`, `id = "lost", to`, "small.toml:71: lost gets references"},
		{"trace elsewhere", `"reads.csv"`, `"../reads.csv"`, "small.toml:62: the trace ../reads.csv"},
		{"no trace", `"reads.csv"`, `"writes.csv"`, "small.toml:62: the trace writes.csv"},
		{"too few nodes", "cores = 8", "cores = 1", "small.toml:1: the nodes have room for 1 servers"},
		{"endless", `duration = "2m"`, `duration = "169h"`, "small.toml:1: the duration"},
		{"rate and trace", `trace = "reads.csv"`, `trace = "reads.csv"` + "\nrate = 1", "small.toml:62: the stream of File.read has arrivals"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(string(small(t)), c.old, c.new, 1)
			if text == string(small(t)) {
				t.Fatal("nothing was replaced")
			}
			_, err := Read("small.toml", []byte(text), os.DirFS("testdata"))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if _, err := Read("big.toml", make([]byte, MaxText+1), nil); err == nil || !strings.HasPrefix(err.Error(), "big.toml:1: ") {
		t.Errorf("too long a text: %v", err)
	}
	deep := "x = " + strings.Repeat("[", 1<<20)
	if _, err := Read("deep.toml", []byte(deep), nil); err == nil {
		t.Error("a million brackets are taken")
	}
}

func TestTraceErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "t.csv:1: the trace is empty",
		"time,actor\n":                      "t.csv:1: the first line",
		"at_seconds,id\n1\n":                "t.csv:2: ",
		"at_seconds,id\n1,a\nsoon,b\n":      `t.csv:3: "soon" is no time`,
		"at_seconds,id\n2,a\n1,b\n":         "t.csv:3: 1 s is before",
		"at_seconds,id\n-1,a\n":             "t.csv:2: ",
		"at_seconds,id\nNaN,a\n":            "t.csv:2: ",
		"at_seconds,id\n1e300,a\n":          "t.csv:2: ",
		"at_seconds,id\n1,\"a\n":            "t.csv:2: ",
		"at_seconds,id\n1,a\n2,b\n3,c\n":    "t.csv:4: the trace has more than 2",
		"at_seconds,id\n1,a\n\n2,b\n\n\n":   "",
		"at_seconds,id\r\n1,a\r\n2,\"b\"\n": "",
	} {
		_, err := readTrace("t.csv", []byte(text), 2)
		switch {
		case want == "" && err != nil:
			t.Errorf("%q: %v", text, err)
		case want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)):
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

// TestTraceNamesItsOwnLines holds that a mistake in a trace is told with the trace's name.
func TestTraceNamesItsOwnLines(t *testing.T) {
	files := fstest.MapFS{"reads.csv": {Data: []byte("at_seconds,id\n1,file-0\nx,file-0\n")}}
	_, err := Read("small.toml", small(t), files)
	if err == nil || !strings.HasPrefix(err.Error(), "reads.csv:3: ") {
		t.Errorf("got %v", err)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]float64{"0": 0, "12": 12, "4KiB": 4096, "1.5k": 1536, "2GiB": 2 << 30, "1_000": 1000} {
		var s size
		if err := s.UnmarshalText([]byte(text)); err != nil || float64(s) != want {
			t.Errorf("%q is %v (%v), want %v", text, s, err, want)
		}
	}
	for _, text := range []string{"", "x", "-4KiB", "nan", "inf", "4 furlongs"} {
		var s size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken for %v", text, s)
		}
	}
}

func FuzzRead(f *testing.F) {
	text := small(f)
	f.Add(text)
	f.Add(bytes.ReplaceAll(text, []byte(`trace = "reads.csv"`), []byte(`rate = 1`)))
	f.Add([]byte(`name = "x"`))
	f.Add([]byte("stream = [{rate = \"1s 1\", arrivals = \"at_seconds,id\\n1,a\"}]"))
	f.Add([]byte("[type.A.function.f]\ncall = [{property = \"p\", function = \"f\", all = true}]"))
	files := os.DirFS("testdata")
	f.Fuzz(func(t *testing.T, text []byte) {
		w, err := read("w.toml", text, files, bounds{actors: 1000, refs: 10_000, arrivals: 10_000})
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, "w.toml:") && !strings.HasPrefix(line, "reads.csv:") && !strings.Contains(err.Error(), "\n") {
					t.Errorf("no place: %v", err)
				}
			}
			return
		}
		back(t, w)
	})
}

func FuzzTrace(f *testing.F) {
	f.Add([]byte("at_seconds,id\n1,a\n1.5,\"b c\"\n"))
	f.Add([]byte("at_seconds,id\r\n604800,x\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		arrivals, err := ReadTrace("t.csv", text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "t.csv:") {
				t.Errorf("no place: %v", err)
			}
			return
		}
		again, err := ReadTrace("t.csv", writeTrace(arrivals))
		if err != nil {
			t.Fatal(err)
		}
		if len(again) != len(arrivals) {
			t.Fatalf("%d arrivals are %d when they are written and read", len(arrivals), len(again))
		}
		for i := range again {
			if again[i].At != arrivals[i].At || again[i].ID != strings.ReplaceAll(arrivals[i].ID, "\r\n", "\n") {
				t.Fatalf("arrival %d is %v, then %v", i, arrivals[i], again[i])
			}
		}
	})
}

// back writes a world and reads it again: it must be the same.
func back(t *testing.T, w *World) {
	t.Helper()
	text, err := Write(w)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > MaxText {
		return
	}
	got, err := Read("again.toml", text, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if diff := difference(w, got); diff != nil {
		t.Fatalf("%v\n%s", diff, text)
	}
}

// difference compares worlds, of which nothing and none are alike.
func difference(a, b *World) error {
	if reflect.DeepEqual(normal(a), normal(b)) {
		return nil
	}
	return fmt.Errorf("it was\n%+v\nand is\n%+v", normal(a), normal(b))
}

func normal(w *World) World {
	out := *w
	out.Actors = nil
	for _, a := range w.Actors {
		a.Refs = plain(a.Refs)
		out.Actors = append(out.Actors, a)
	}
	out.Events = nil
	for _, e := range w.Events {
		if e.Born != nil {
			born := *e.Born
			born.Refs = plain(born.Refs)
			e.Born = &born
		}
		if e.Refs != nil {
			e.Refs = &Refs{e.Refs.ID, plain(e.Refs.Refs)}
		}
		out.Events = append(out.Events, e)
	}
	return out
}

func plain(refs map[string][]string) map[string][]string {
	out := map[string][]string{}
	for name, to := range refs {
		if len(to) == 0 {
			to = nil
		}
		out[name] = to
	}
	return out
}
