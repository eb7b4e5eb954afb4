package vet

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/manifest"
)

var update = flag.Bool("update", false, "write the golden files")

func application(t testing.TB) *manifest.Manifest {
	t.Helper()
	text, err := os.ReadFile("testdata/manifest.toml")
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Read("manifest.toml", text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// checks that need the manifest; others are tried without, so that its absence is tried too.
var named = []string{"unknown-", "wrong-reference", "group-", "flapping"}

func check(t testing.TB, file string) (text []byte, findings []Finding) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p, err := epl.Parse(filepath.Base(file), text, epl.Full)
	if err != nil {
		t.Fatal(err)
	}
	var m *manifest.Manifest
	if slices.ContainsFunc(named, func(n string) bool { return strings.HasPrefix(filepath.Base(file), n) }) {
		m = application(t)
	}
	return text, Check(p, m)
}

// Each check has CODE.epl with what it finds in CODE.golden, and CODE.fine.epl where it finds
// nothing.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.epl")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, findings := check(t, file)
			code, _, _ := strings.Cut(filepath.Base(file), ".")
			has := slices.ContainsFunc(findings, func(f Finding) bool { return f.Code == code })
			if fine := strings.HasSuffix(file, ".fine.epl"); fine {
				if has {
					t.Errorf("finds %s in what is fine: %v", code, findings)
				}
				return
			} else if !has {
				t.Errorf("doesn't find %s: %v", code, findings)
			}
			var got bytes.Buffer
			if err := Print(&got, filepath.Base(file), text, findings); err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(file, ".epl") + ".golden"
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("got:\n%swant:\n%s", got.String(), want)
			}
		})
	}
}

// Every code in the source has both files.
func TestEveryCheckHasFiles(t *testing.T) {
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]bool{"unknown-type": true, "unknown-function": true, "unknown-property": true, "unknown-metric": true}
	for _, s := range sources {
		text, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`Code(?:: |, f.Message = )"([a-z-]+[a-z])"`).FindAllSubmatch(text, -1) {
			codes[string(m[1])] = true
		}
	}
	delete(codes, "too-large") // TestLarge
	if len(codes) < 30 {
		t.Errorf("only %d codes were found in the source", len(codes))
	}
	for code := range codes {
		for _, file := range []string{code + ".epl", code + ".fine.epl"} {
			if _, err := os.Stat(filepath.Join("testdata", file)); err != nil {
				t.Error(err)
			}
		}
	}
}

// Large policies are checked in bounded time, and say if not all was checked.
func TestLarge(t *testing.T) {
	var b strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&b, "server.cpu.perc > %d => separate(A%d, B); colocate(B, A%d);\n", i%90, i, i+1)
	}
	p, err := epl.Parse("large.epl", []byte(b.String()), epl.Full)
	if err != nil {
		t.Fatal(err)
	}
	findings := Check(p, application(t))
	if len(findings) > maxFindings+1 {
		t.Errorf("%d findings", len(findings))
	}
	if !slices.ContainsFunc(findings, func(f Finding) bool { return f.Code == "too-large" }) {
		t.Error("doesn't say that it is too large")
	}
}

func hundred() []byte {
	var b strings.Builder
	b.WriteString("limits { servers 2..20; cooldown up 10s down 120s; period 10s; }\n")
	for i := range 100 {
		fmt.Fprintf(&b, "rule r%d priority %d: (server.cpu.perc > %d or server.cpu.perc < 20) and client.call(Folder%d(fo).open).perc > 40 and File(fi) in ref(fo.files) and fi.mem.size > %dKiB => reserve(fo, cpu); colocate(fo, fi); balance({Folder%d, File}, cpu);\n", i, i%10, 60+i%30, i%7, i+1, i%7)
	}
	return []byte(b.String())
}

func BenchmarkVet100Rules(b *testing.B) {
	text := hundred()
	for b.Loop() {
		p, err := epl.Parse("", text, epl.Full)
		if err != nil {
			b.Fatal(err)
		}
		Check(p, nil)
	}
}

func FuzzCheck(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.epl")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, true)
	}
	m := application(f)
	f.Fuzz(func(t *testing.T, text []byte, named bool) {
		p, err := epl.Parse("f", text, epl.Full)
		if err != nil {
			return
		}
		with := m
		if !named {
			with = nil
		}
		findings := Check(p, with)
		for _, x := range findings {
			if x.Message == "" || x.Code == "" || x.Pos.Line < 1 || x.End.Offset > len(text) || x.End.Offset < x.Pos.Offset {
				t.Errorf("finding %+v", x)
			}
		}
		if err := Print(&bytes.Buffer{}, "f", text, findings); err != nil {
			t.Error(err)
		}
	})
}
