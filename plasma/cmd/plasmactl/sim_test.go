package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/peregrine-dev/peregrine/plasma/apps"
	"github.com/peregrine-dev/peregrine/plasma/baseline"
	"github.com/peregrine-dev/peregrine/plasma/report"
	"github.com/peregrine-dev/peregrine/plasma/sim"
)

const smallWorld = `
name = "small"
duration = "20s"
period = "2s"
servers = 2

[server]
cores = 1
memory = "1GiB"
network = "100MB"

[[node]]
id = "n"
cores = 8
memory = "8GiB"
network = "1GB"

[type.Counter.function.add]
service = "5ms"

[[population]]
id = "c"
type = "Counter"
count = 20

[[stream]]
type = "Counter"
function = "add"
rate = "0s 50, 10s 300"
`

const smallPolicy = `server.cpu.perc < 30 or server.cpu.perc > 60 => balance({Counter}, cpu);`

// simApp runs the commands of this file's tests, and gives what they print.
func simApp(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	app := &cli.App{
		Writer: &out, ErrWriter: &out, ExitErrHandler: func(*cli.Context, error) {},
		Commands: []*cli.Command{simCommand(), compareCommand(), replayCommand()},
	}
	err := app.RunContext(context.Background(), append([]string{"plasmactl"}, args...))
	return out.String(), err
}

// inFile writes a file for a test.
func inFile(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestSim(t *testing.T) {
	w, p := inFile(t, "w.toml", smallWorld), inFile(t, "p.epl", smallPolicy)
	dir := t.TempDir()
	page, values, steps := filepath.Join(dir, "r.html"), filepath.Join(dir, "r.json"), filepath.Join(dir, "r.record")
	out, err := simApp(t, "sim", "--epl=paper", "--seed", "3", "--html", page, "--json", values, "--record", steps, p, w)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "20s in 10 periods of 2s, seed 3") {
		t.Errorf("it prints\n%s", out)
	}
	text, err := os.ReadFile(page)
	if err != nil || !bytes.Contains(text, []byte("p on small")) {
		t.Errorf("the page: %v, %d bytes", err, len(text))
	}
	var r sim.Result
	if text, err = os.ReadFile(values); err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil || r.Seed != 3 || len(r.Windows) != 10 || r.Requests == 0 {
		t.Errorf("the values: %v, %+v", err, r)
	}
	if out, err = simApp(t, "replay", steps); err != nil || !strings.Contains(out, "9 steps, 0 of them") {
		t.Errorf("the record: %v: %s", err, out)
	}
	again, err := simApp(t, "sim", "--epl=paper", "--seed", "3", "--json", "-", p, w)
	if err != nil || again != string(text) {
		t.Errorf("the same again: %v, and %d bytes of which not all are the same", err, len(again))
	}
}

// TestSimBuiltIn runs each built-in world with its own policy, in both languages.
func TestSimBuiltIn(t *testing.T) {
	for _, name := range apps.Names() {
		for _, language := range []string{"full", "paper"} {
			out, err := simApp(t, "sim", "--epl", language, "--duration", "30s", "--json", "-", "-", name)
			if err != nil {
				t.Errorf("%s, %s: %v", name, language, err)
				continue
			}
			var r sim.Result
			if err := json.Unmarshal([]byte(out), &r); err != nil || r.Duration.Seconds() != 30 || r.Answered == 0 {
				t.Errorf("%s, %s: %v, %d answered", name, language, err, r.Answered)
			}
			if r.InvalidActions() > 0 {
				t.Errorf("%s, %s: these actions couldn't be done: %v", name, language, r.Invalid)
			}
		}
	}
}

func TestSimCalibration(t *testing.T) {
	w := inFile(t, "w.toml", smallWorld)
	c := inFile(t, "c.toml", "[service]\nCounter = 0.5\n")
	var loads [2]float64
	for i, args := range [][]string{{}, {"--calibration", c}} {
		out, err := simApp(t, append(append([]string{"sim", "--json", "-"}, args...), "none", w)...)
		if err != nil {
			t.Fatal(err)
		}
		var r sim.Result
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		loads[i] = float64(r.Windows[8].Loads[0].CPU)
	}
	if loads[1] < .4*loads[0] || loads[1] > .6*loads[0] {
		t.Errorf("with half the service times the load is %v of %v", loads[1], loads[0])
	}
}

func TestCompare(t *testing.T) {
	w, p := inFile(t, "w.toml", smallWorld), inFile(t, "mine.epl", smallPolicy)
	page := filepath.Join(t.TempDir(), "r.html")
	out, err := simApp(t, "compare", "--seeds", "2", "--html", page, w, p)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 2+len(baseline.Names()) || !strings.HasPrefix(lines[1], "mine ") {
		t.Errorf("it prints\n%s", out)
	}
	if text, err := os.ReadFile(page); err != nil || !bytes.Contains(text, []byte("2 runs of each")) {
		t.Errorf("the page: %v, %d bytes", err, len(text))
	}
	out, err = simApp(t, "compare", "--seeds", "2", "--json", "-", w, p)
	if err != nil {
		t.Fatal(err)
	}
	var sums []report.Summary
	if err := json.Unmarshal([]byte(out), &sums); err != nil || len(sums) != 1+len(baseline.Names()) || sums[0].Runs != 2 {
		t.Errorf("the values: %v, %+v", err, sums)
	}
	again, err := simApp(t, "compare", "--seeds", "2", "--json", "-", w, p)
	if err != nil || again != out {
		t.Errorf("the same again differs: %v", err)
	}
}

func TestSimMistakes(t *testing.T) {
	w, p := inFile(t, "w.toml", smallWorld), inFile(t, "p.epl", smallPolicy)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"sim", p}, "want a policy and a world"},
		{[]string{"sim", p, "nowhere"}, "there is no file nowhere, and no world of that name: there are "},
		{[]string{"sim", "nothing.epl", w}, "nothing.epl"},
		{[]string{"sim", "-", w}, "brings no policy: give a file instead of -"},
		{[]string{"sim", p, inFile(t, "bad.toml", "nme = 1")}, "bad.toml:1:1: there is no key"},
		{[]string{"sim", inFile(t, "bad.epl", "server.cpu.perc > => pin(A);"), w}, "bad.epl:1:"},
		{[]string{"sim", "--epl", "half", p, w}, "want full or paper"},
		{[]string{"sim", "--duration", "-1s", p, w}, "the duration is -1s"},
		{[]string{"sim", "--calibration", inFile(t, "c.toml", "[service]\nFolder = 2"), p, w}, "a factor for Folder"},
		{[]string{"sim", "--calibration", inFile(t, "d.toml", "[service]\nFolder = 0"), p, w}, "d.toml:2:1: Folder: 0 is no factor"},
		{[]string{"sim", "--html", "/nowhere/r.html", p, w}, "/nowhere/r.html"},
		{[]string{"sim", "--record", "/nowhere/r", p, w}, "/nowhere/r"},
		{[]string{"sim", "--record", "r", "hpa", w}, "leave out --record"},
		{[]string{"compare"}, "want a world"},
		{[]string{"compare", "--seeds", "0", w, p}, "from 1 to 1000 seeds"},
		{[]string{"compare", w}, "brings no policy"},
	} {
		out, err := simApp(t, c.args...)
		if err == nil || !strings.Contains(out+err.Error(), c.want) {
			t.Errorf("%q gives %v and\n%s, want %q", c.args, err, out, c.want)
		}
	}
}
