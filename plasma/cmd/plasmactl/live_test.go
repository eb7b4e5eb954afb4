package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/plan"
)

// recorded is a record of one plan, by a policy, of what is crowded.
func recorded(t *testing.T, policy string) []byte {
	t.Helper()
	p, err := epl.Parse("policy", []byte(policy), epl.Full)
	if err != nil {
		t.Fatal(err)
	}
	program, err := ir.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	r, err := model.NewRecorder(&b, policy, false)
	if err != nil {
		t.Fatal(err)
	}
	step := model.Step{Snapshot: crowded()}
	step.Plan = plan.New(program).Plan(&step.Snapshot, step.Before)
	if err := r.Write(&step); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestLivePlan(t *testing.T) {
	f := plasmad(t)
	f.record = recorded(t, level)
	if out, err := do(t, "plan", "--live", "files"); err != nil || !strings.Contains(out, "move    a      s0    s1") || f.last() != `PlanRequest {"service":"files"}` {
		t.Errorf("%v, %s:\n%s", err, f.last(), out)
	}
	if out, err := do(t, "explain", "--live", "files", "--rule", "level"); err != nil || !strings.Contains(out, "moves towards the mean") {
		t.Errorf("%v:\n%s", err, out)
	}
	other := writePolicy(t, "true => pin(any);")
	if out, err := do(t, "plan", "--live", "files", other); err != nil || !strings.Contains(f.last(), `"policy":"true =\u003e pin(any);"`) {
		t.Errorf("%v, %s:\n%s", err, f.last(), out)
	}
	before := f.last()
	if out, err := do(t, "plan", "--live", "files", writePolicy(t, "nonsense")); err == nil || !strings.Contains(out, "policy.epl:1:") || f.last() != before {
		t.Errorf("a policy with a mistake: %v\n%s", err, out)
	}
	f.record = f.record[:len(f.record)/2]
	if _, err := do(t, "plan", "--live", "files"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("half a record: %v", err)
	}
}

func TestLiveVet(t *testing.T) {
	f := plasmad(t)
	f.now.Services[0].Policy = "server.cpu.perc > 100 => pin(Folder);"
	if code, out, errs := policies(t, t.TempDir(), "", "vet", "--live", "files"); code != 0 || !strings.Contains(out, "files (version 3):1:1") || !strings.Contains(out, "never holds") {
		t.Errorf("%d %s%s", code, out, errs)
	}
}

// serviceFolder has a service's file and what it names.
func serviceFolder(t *testing.T, policy string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"files.toml": "name = \"files\"\nimage = \"docker.io/library/files:3\"\npolicy = \"files.epl\"\nmanifest = \"m.toml\"\n",
		"files.epl":  policy, "m.toml": folders,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestApply(t *testing.T) {
	f := plasmad(t)
	dir := serviceFolder(t, "server.cpu.perc > 80 => balance({Folder}, cpu);\n")
	code, out, errs := policies(t, dir, "", "apply", "files.toml")
	if code != 0 || !strings.HasPrefix(f.last(), "ApplyRequest") || !strings.Contains(f.last(), "balance({Folder}, cpu)") || !strings.Contains(f.last(), "[type.Folder]") {
		t.Errorf("%d, asked for %s", code, f.last())
	}
	golden(t, "apply.txt", out+"---\n"+errs)
	code, out, _ = policies(t, dir, "", "apply", "--dry-run", filepath.Join(dir, "files.toml"))
	if code != 0 || !strings.Contains(f.last(), `"dry_run":true`) || !strings.HasSuffix(out, "nothing of this was done: leave out --dry-run to do it\n") {
		t.Errorf("%d, asked for %s:\n%s", code, f.last(), out)
	}
	before := f.last()
	for policy, want := range map[string]string{
		"nonsense": "files.epl:1:", "server.cpu.perc > 80 => balance({Foldr}, cpu);": `did you mean "Folder"?`,
	} {
		if code, _, errs := policies(t, serviceFolder(t, policy), "", "apply", "files.toml"); code != codeRefused || !strings.Contains(errs, want) || f.last() != before {
			t.Errorf("%s: %d %s, asked for %s", policy, code, errs, f.last())
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "m.toml"), []byte("nam = 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := policies(t, dir, "", "apply", "files.toml"); code != codeMisuse || !strings.Contains(errs, "m.toml:1:1") {
		t.Errorf("a wrong manifest: %d %s", code, errs)
	}
}
