package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
)

const level = `rule level: server.cpu.perc < 60 or server.cpu.perc > 80 => balance({Part}, cpu);`

// crowded is a snapshot of two servers, one of which has all the load.
func crowded() model.Snapshot {
	s := model.Snapshot{Version: model.Version, At: time.Hour, Window: 5 * time.Second}
	for _, id := range []string{"s0", "s1"} {
		s.Servers = append(s.Servers, model.Server{ID: id, Node: -1, State: model.Up, Limit: model.Resources{CPU: 1}})
	}
	for _, id := range []string{"a", "b"} {
		s.Actors = append(s.Actors, model.Actor{ID: id, Type: "Part", Usage: model.Resources{CPU: 0.45}})
	}
	s.Servers[0].Usage.CPU = 0.9
	return s
}

func writeJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func writePolicy(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.epl")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// do runs plasmactl and gives what it printed.
func do(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	a := app()
	a.Writer, a.ErrWriter = &out, &out
	err := a.RunContext(t.Context(), append([]string{"plasmactl"}, args...))
	return out.String(), err
}

func TestPlan(t *testing.T) {
	snapshot, policy := writeJSON(t, crowded()), writePolicy(t, level)
	out, err := do(t, "plan", policy, snapshot)
	if err != nil || !strings.Contains(out, "move    a      s0    s1") || strings.Count(out, "\n") != 2 {
		t.Errorf("%v:\n%s", err, out)
	}
	out, err = do(t, "plan", "--json", policy, snapshot)
	var p model.Plan
	if err != nil || json.Unmarshal([]byte(out), &p) != nil || len(p.Actions) != 1 || p.Actions[0].ActorName != "a" {
		t.Errorf("%v:\n%s", err, out)
	}
	out, err = do(t, "explain", "--rule", "level", policy, snapshot)
	if err != nil || !strings.Contains(out, "1 actor moves towards the mean of 45 %") {
		t.Errorf("%v:\n%s", err, out)
	}
	if out, err = do(t, "plan", writePolicy(t, "mode shadow; "+level), snapshot); err != nil || !strings.Contains(out, "nothing of this would be carried out") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestPlanIsRefused(t *testing.T) {
	snapshot, policy := writeJSON(t, crowded()), writePolicy(t, level)
	wrong := crowded()
	wrong.Actors[0].Server = 7
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{policy}, "want a policy and a snapshot"},
		{[]string{policy, policy}, "is no snapshot"},
		{[]string{policy, writeJSON(t, wrong)}, "actor a is on server 7, of 2"},
		{[]string{"--epl", "klingon", policy, snapshot}, "want full or paper"},
		{[]string{filepath.Join(t.TempDir(), "none"), snapshot}, "no such file"},
	} {
		if out, err := do(t, append([]string{"plan"}, test.args...)...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want %q\n%s", test.args, err, test.want, out)
		}
	}
	if out, err := do(t, "plan", writePolicy(t, "nonsense"), snapshot); err == nil || !strings.Contains(out, "policy.epl:1:") {
		t.Errorf("a policy with a mistake: %v\n%s", err, out)
	}
}

// What a simulation records is planned again as it was, and otherwise by another policy.
func TestReplay(t *testing.T) {
	record := filepath.Join(t.TempDir(), "run.jsonl")
	if out, err := do(t, "sim", "--duration", "1m", "--record", record, "-", "btree"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := do(t, "replay", record); err != nil || !strings.Contains(out, "steps, 0 of them planned otherwise") {
		t.Errorf("%v\n%s", err, out)
	}
	other := writePolicy(t, "limits { servers 9..9; } true => pin(any);")
	if out, err := do(t, "replay", "--policy", other, record); err == nil || strings.Contains(out, " 0 of them planned otherwise") {
		t.Errorf("by another policy: %v\n%s", err, out)
	}
	if out, err := do(t, "explain", writePolicy(t, level), record); err != nil || !strings.Contains(out, "level") {
		t.Errorf("the last step: %v\n%s", err, out)
	}
	if _, err := do(t, "replay", writePolicy(t, level)); err == nil || !strings.Contains(err.Error(), "line 1 of the record") {
		t.Errorf("what is no record: %v", err)
	}
}
