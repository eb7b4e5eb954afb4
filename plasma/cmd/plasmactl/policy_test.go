package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

const folders = "[type.Folder]\nfunctions = [\"open\"]\n"

// policies runs a command about policies in a folder with these files, and gives its exit code
// as main has it.
func policies(t *testing.T, dir, stdin string, args ...string) (code int, out, errs string) {
	t.Helper()
	t.Chdir(dir)
	a := app()
	var stdout, stderr bytes.Buffer
	a.Reader, a.Writer, a.ErrWriter = strings.NewReader(stdin), &stdout, &stderr
	err := a.RunContext(t.Context(), append([]string{"plasmactl"}, args...))
	var exit cli.ExitCoder
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		code = codeMisuse
		stderr.WriteString(err.Error())
	}
	return code, stdout.String(), stderr.String()
}

func policyFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"good.epl": "true => ;\n", "ugly.epl": "true=>;// c\n", "wrong.epl": "tru => ;\n", "full.epl": "not true => ;\n",
		"refused.epl": "Foldr.cpu.count > 3 => pin(Foldr);\n", "warned.epl": "server.cpu.perc > 100 => pin(Folder);\n",
		"m.toml": folders, "bad.toml": "nam = 3\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPolicyCommands(t *testing.T) {
	for _, tt := range []struct {
		args      string
		stdin     string
		code      int
		out, errs string // parts
	}{
		{"fmt", "true=>;", 0, "true => ;\n", ""},
		{"fmt -", "true=>;", 0, "true => ;\n", ""},
		{"fmt good.epl ugly.epl", "", 0, "true => ;\ntrue => ; // c\n", ""},
		{"fmt --check good.epl", "", 0, "", ""},
		{"fmt -d good.epl ugly.epl", "", 1, "ugly.epl\n", ""},
		{"fmt wrong.epl good.epl", "", 1, "true => ;\n", "wrong.epl:1:5: want"},
		{"fmt --epl=paper full.epl", "", 1, "", "leave out --epl=paper"},
		{"fmt --epl=other good.epl", "", 2, "", "want full or paper"},
		{"fmt -w --check good.epl", "", 2, "", "give one of them"},
		{"fmt -w", "true=>;", 2, "", "standard input"},
		{"fmt none.epl", "", 2, "", "no such file"},
		{"vet good.epl", "", 0, "good.epl:1:1: warning", ""},
		{"vet warned.epl", "", 0, "never holds", ""},
		{"vet", "pin(A);", 1, "<standard input>:1:1: want a condition", ""},
		{"vet refused.epl warned.epl", "", 1, "[meaningless-stat]", ""},
		{"vet --manifest m.toml refused.epl", "", 1, `did you mean "Folder"?`, ""},
		{"vet --manifest bad.toml good.epl", "", 2, "", "bad.toml:1:1"},
		{"vet --manifest none.toml good.epl", "", 2, "", "no such file"},
		{"vet --epl=paper full.epl", "", 1, "leave out --epl=paper", ""},
	} {
		t.Run(tt.args, func(t *testing.T) {
			code, out, errs := policies(t, policyFolder(t), tt.stdin, strings.Fields(tt.args)...)
			if code != tt.code || !strings.Contains(out, tt.out) || !strings.Contains(errs, tt.errs) || tt.errs == "" && errs != "" {
				t.Errorf("code %d\n%s\n%s", code, out, errs)
			}
		})
	}
}

// -w changes only what isn't formatted, keeps a file's mode, and leaves links as they are.
func TestFormatWrites(t *testing.T) {
	dir := policyFolder(t)
	if err := os.Symlink("ugly.epl", filepath.Join(dir, "link.epl")); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(filepath.Join(dir, "good.epl"))
	if err != nil {
		t.Fatal(err)
	}
	if code, out, errs := policies(t, dir, "", "fmt", "-w", "good.epl", "link.epl"); code != 0 || out+errs != "" {
		t.Fatalf("code %d\n%s\n%s", code, out, errs)
	}
	after, err := os.Stat(filepath.Join(dir, "good.epl"))
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("what was formatted has been written: %v", err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "ugly.epl"))
	if err != nil || string(text) != "true => ; // c\n" {
		t.Errorf("%q, %v", text, err)
	}
	info, err := os.Lstat(filepath.Join(dir, "ugly.epl"))
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if link, err := os.Readlink(filepath.Join(dir, "link.epl")); err != nil || link != "ugly.epl" {
		t.Errorf("the link: %q, %v", link, err)
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 9 {
		t.Errorf("%d files, %v", len(all), err)
	}
}

func TestVetJSON(t *testing.T) {
	code, out, errs := policies(t, policyFolder(t), "", "vet", "--json", "wrong.epl", "refused.epl")
	var all []finding
	if err := json.Unmarshal([]byte(out), &all); err != nil || code != 1 || errs != "" {
		t.Fatalf("code %d, %v, %s", code, err, errs)
	}
	if f := all[0]; f.File != "wrong.epl" || f.Line != 1 || f.Column != 5 || f.EndColumn != 7 || f.Severity != "error" || f.Code != "syntax" {
		t.Errorf("first finding: %+v", f)
	}
	if f := all[1]; f.File != "refused.epl" || f.Code != "meaningless-stat" || f.Hint == "" {
		t.Errorf("second finding: %+v", f)
	}
	if code, out, _ := policies(t, t.TempDir(), "Folder.cpu.perc > 3 => pin(Folder);", "vet", "--json"); code != 0 || out != "[]\n" {
		t.Errorf("nothing to say: code %d, %q", code, out)
	}
}
