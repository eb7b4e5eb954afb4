package vm

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

// unpack returns what is in an archive, one line for each entry, in order.
func unpack(t *testing.T, archive []byte) []string {
	t.Helper()
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(archive)))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range records {
		if r.UID != 0 || r.GID != 0 {
			t.Errorf("%s belongs to %d:%d", r.Name, r.UID, r.GID)
		}
		text := ""
		if r.FileSize > 0 {
			content, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
			if err != nil {
				t.Fatal(err)
			}
			text = fmt.Sprintf(" %q", content)
		}
		if r.Rmajor != 0 {
			text = fmt.Sprintf(" %d:%d", r.Rmajor, r.Rminor)
		}
		lines = append(lines, fmt.Sprintf("%o %s%s", r.Mode, r.Name, text))
	}
	return lines
}

func TestArchive(t *testing.T) {
	host := filepath.Join(t.TempDir(), "program")
	writeFile(t, host, "hello")
	a := newArchive()
	for _, err := range []error{
		a.record(cpio.Directory("/tmp", 0o1777)),
		a.record(cpio.Directory("/lib", 0o755)),
		a.record(cpio.Symlink("/lib64", "lib")),
		a.record(cpio.CharDev("/dev/console", 0o600, 5, 1)),
		a.file(host, "/usr/bin/program", 0o755),
		a.file(host, "/usr/bin/program", 0o755), // the same again is nothing
		a.file(host, "/usr/share/copy", 0o644),
		a.file(host, "/lib64/through-the-link", 0o644),
		a.record(cpio.StaticFile("/empty", "", 0o600)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := a.write(&out); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(unpack(t, out.Bytes()), "\n")
	want := strings.Join([]string{
		"41777 tmp",
		"40755 lib",
		`120777 lib64 "lib"`,
		"40755 dev",
		"20600 dev/console 5:1",
		"40755 usr",
		"40755 usr/bin",
		`100755 usr/bin/program "hello"`,
		"40755 usr/share",
		`100644 usr/share/copy "hello"`,
		`100644 lib64/through-the-link "hello"`,
		"100600 empty",
	}, "\n")
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// What the kernel looks at: the magic number of newc, and every entry at a
	// multiple of four bytes.
	if !bytes.HasPrefix(out.Bytes(), []byte("070701")) || out.Len()%4 != 0 {
		t.Errorf("the archive begins with %q and has %d bytes", out.Bytes()[:6], out.Len())
	}
}

func TestArchiveRefuses(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	writeFile(t, one, "1")
	writeFile(t, two, "2")
	a := newArchive()
	if err := a.file(one, "/file", 0o644); err != nil {
		t.Fatal(err)
	}
	for want, err := range map[string]error{
		"both " + one + " and " + two + " would be /file": a.file(two, "/file", 0o644),
		"is not a regular file":                           a.file(dir, "/dir", 0o755),
		"no such file":                                    a.file(dir+"/absent", "/absent", 0o644),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

// A host's file that becomes shorter must not make an archive that looks whole.
func TestArchiveOfAFileThatShrinks(t *testing.T) {
	host := filepath.Join(t.TempDir(), "file")
	writeFile(t, host, "long enough")
	a := newArchive()
	if err := a.file(host, "/file", 0o644); err != nil {
		t.Fatal(err)
	}
	writeFile(t, host, "short")
	if err := a.write(io.Discard); err == nil || !strings.Contains(err.Error(), "/file") {
		t.Errorf("got %v, want an error that names the file", err)
	}
}

func TestRunNamesTheRemedy(t *testing.T) {
	for want, cfg := range map[string]Config{
		"no smoke test":            {},
		"integration/vm/fetch.sh ": {Cache: t.TempDir(), Smoke: []string{"smoke/10-containerd.sh"}},
	} {
		if err := Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	if _, err := findProgram("no-such-program", "some-package"); err == nil || !strings.Contains(err.Error(), "apt-get install --no-install-recommends some-package") {
		t.Errorf("got %v, want an error that says what to install", err)
	}
}
