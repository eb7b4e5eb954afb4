package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/sim"
)

var update = flag.Bool("update", false, "write the golden files anew")

// result is a run of so many periods whose numbers are simple.
func result(windows, servers int) *sim.Result {
	r := &sim.Result{
		World: "w", Seed: 7, Period: time.Second, Duration: time.Duration(windows) * time.Second, Bound: .9,
		Events: 12345, Requests: 1000, Answered: 990, Failed: 4, Open: 6,
		Latency:       sim.Latency{Count: 990, Mean: 3.14159, P50: 2, P95: 9.87, P99: 12.3456, P999: 123.456, Max: 200},
		ServerSeconds: 40.5, CoreSeconds: 81, OverloadSeconds: 3, MaxOverMean: 1.2, WorstMaxOverMean: 2.5,
		Moves: 12, MoveBytes: 3 << 20, MovePause: .25, PingPong: 1, ScaleOuts: 2, ScaleIns: 1,
		Plans: windows, Invalid: map[string]int{"move: the actor is fixed": 2, "drain: the server is gone": 1},
	}
	for i := range servers {
		r.Names = append(r.Names, fmt.Sprint("server ", i))
	}
	for i := range windows {
		w := sim.Window{
			At: time.Duration(i+1) * time.Second, Length: time.Second, Servers: servers, Actors: 5,
			Requests: uint64(100 + i), Answered: uint64(90 + i), Moves: i % 3, Overloaded: i % 2, MaxOverMean: 1.5,
			Latency: model.Latency{Mean: 3, P50: 2, P95: 10, P99: float64(10 * (1 + i))},
		}
		for k := range servers {
			if i < 2 && k == servers-1 {
				continue // the last one comes later
			}
			w.Loads = append(w.Loads, sim.Load{Server: int32(k), CPU: float32(k+1) / float32(servers) * float32(i+1) / float32(windows), Mem: .5})
		}
		r.Windows = append(r.Windows, w)
	}
	r.Done = []sim.Decided{{At: time.Second, Decision: model.Decision{Rule: "hot", Behavior: "reserve(fo, cpu)", Done: true, Code: "moved", Reason: "server 0 is at 95 %."}}}
	r.NotDone = []sim.Decided{{At: 2 * time.Second, Decision: model.Decision{Rule: "level", Behavior: "balance({Folder}, cpu)", Code: "balanced", Reason: "no move makes it better."}}}
	return r
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; if it should, run the tests with -update. Got:\n%s", name, got)
	}
}

func html(t *testing.T, policies ...Policy) string {
	t.Helper()
	var b bytes.Buffer
	if err := HTML(&b, Head{Title: "A & B", Notes: []string{"a note"}}, policies); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// structure is a page without its style and script, which are files of their own.
func structure(page string) []byte {
	page = regexp.MustCompile(`(?s)<style>.*?</style>`).ReplaceAllString(page, "<style></style>")
	return []byte(regexp.MustCompile(`(?s)<script>.*?</script>`).ReplaceAllString(page, "<script></script>"))
}

func TestPage(t *testing.T) {
	page := html(t, Policy{Name: "plasma", Text: "true => pin(A);", Results: []*sim.Result{result(4, 3)}})
	golden(t, "one.html", structure(page))
	wellFormed(t, page)
}

func TestCompared(t *testing.T) {
	other := result(4, 3)
	other.ServerSeconds, other.OverloadSeconds, other.Moves = 81, 0, 120
	policies := []Policy{
		{Name: "plasma", Results: []*sim.Result{result(4, 2), result(4, 2)}},
		{Name: "hpa", Doc: "a formula", Results: []*sim.Result{other, result(4, 2)}},
	}
	page := html(t, policies...)
	golden(t, "several.html", structure(page))
	wellFormed(t, page)
	var b bytes.Buffer
	if err := Text(&b, policies); err != nil {
		t.Fatal(err)
	}
	golden(t, "several.txt", b.Bytes())
	b.Reset()
	if err := Details(&b, other); err != nil {
		t.Fatal(err)
	}
	golden(t, "one.txt", b.Bytes())
}

// wellFormed checks that all elements are closed, that a page asks nothing of the network, and that
// no number in it is none.
func wellFormed(t *testing.T, page string) {
	t.Helper()
	for _, bad := range []string{"http:", "https:", "src=", "href=", "url(", "@import", "NaN", "Inf", "%!"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	body := string(structure(page))
	d := xml.NewDecoder(strings.NewReader(body))
	d.Strict = false
	d.AutoClose = []string{"meta", "input"}
	d.Entity = xml.HTMLEntity
	depth := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the page is not well formed: %v", err)
		}
		switch token.(type) {
		case xml.StartElement:
			depth++
		case xml.EndElement:
			depth--
		}
	}
	if depth != 0 {
		t.Errorf("%d elements are open at the end", depth)
	}
}

// TestHostile has names that try to be markup, wherever a name comes from outside.
func TestHostile(t *testing.T) {
	const evil = `"><script>alert(1)</script><img src=x onerror='alert(2)'>` + "\x1b[2J"
	r := result(3, 2)
	r.World = evil
	r.Names[0] = evil
	r.Invalid = map[string]int{evil: 1}
	for _, list := range [][]sim.Decided{r.Done, r.NotDone} {
		list[0].Rule, list[0].Behavior, list[0].Code, list[0].Reason = evil, evil, evil, evil
	}
	one := Policy{Name: evil, Doc: evil, Text: evil, Results: []*sim.Result{r}}
	for _, policies := range [][]Policy{{one}, {one, one}} {
		var b bytes.Buffer
		if err := HTML(&b, Head{Title: evil, Notes: []string{evil}}, policies); err != nil {
			t.Fatal(err)
		}
		page := b.String()
		if strings.Contains(page, "<script>alert") || strings.Contains(page, "<img") || strings.Count(page, "<script>") != 1 {
			t.Error("a name got through as markup")
		}
		if !strings.Contains(page, "&lt;script&gt;alert(1)") {
			t.Error("the name isn't there at all")
		}
		b.Reset()
		if err := Text(&b, policies); err != nil {
			t.Fatal(err)
		}
		if err := Details(&b, r); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(b.String(), "\x1b") {
			t.Error("a name got through to the terminal with its escape")
		}
	}
}

// TestOddResults draws what has nothing in it, or very much.
func TestOddResults(t *testing.T) {
	empty := &sim.Result{}
	idle := result(3, 1)
	for i := range idle.Windows {
		idle.Windows[i] = sim.Window{At: time.Duration(i + 1), Length: 1}
	}
	long := result(5000, 300)
	for _, r := range []*sim.Result{empty, idle, long} {
		one := Policy{Name: "p", Results: []*sim.Result{r}}
		wellFormed(t, html(t, one))
		page := html(t, one, one, Policy{Name: "q", Results: []*sim.Result{result(2, 2)}})
		wellFormed(t, page)
		if len(page) > 4<<20 {
			t.Errorf("a page of %d bytes", len(page))
		}
	}
	if page := html(t, Policy{Name: "p", Results: []*sim.Result{long}}); len(page) > 6<<20 || !strings.Contains(page, "180 more servers are not shown") {
		t.Errorf("a page of %d bytes", len(page))
	}
	for _, none := range [][]Policy{nil, {{Name: "p"}}} {
		if err := HTML(io.Discard, Head{}, none); err == nil {
			t.Error("a report of nothing")
		}
		if err := Text(io.Discard, none); err == nil {
			t.Error("a table of nothing")
		}
	}
}

func TestDecisions(t *testing.T) {
	r := result(1, 1)
	r.Done, r.NotDone = nil, nil
	for i := range 400 {
		r.Done = append(r.Done, sim.Decided{At: time.Duration(i) * time.Second, Decision: model.Decision{Done: true}})
		r.NotDone = append(r.NotDone, sim.Decided{At: time.Duration(i) * time.Second})
	}
	rows, hidden := decisions(r)
	if len(rows) != maxRows || hidden != 800-maxRows || rows[0].At != "6m39s" || rows[0].Done != "yes" || rows[1].Done != "no" {
		t.Errorf("%d rows, %d hidden, the first %+v", len(rows), hidden, rows[0])
	}
}

func TestNumbers(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1", 1234.5: "1234", 12.345: "12.3", 1.2345: "1.23", .012345: "0.0123", -3.25: "-3.25",
		math.Inf(1): "-", 100: "100", .00001: "1e-05",
	} {
		if got := number(v); got != want {
			t.Errorf("%v is written %s, want %s", v, got, want)
		}
	}
	if got := nice(0, 7.3, 5); fmt.Sprint(got) != "[0 2 4 6]" {
		t.Errorf("the ticks up to 7.3 are %v", got)
	}
}
