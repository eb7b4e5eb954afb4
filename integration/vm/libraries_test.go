package vm

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// dynamicProgram is linked with the C library on every distribution.
const dynamicProgram = "/bin/ls"

func TestLibrariesAreComplete(t *testing.T) {
	search := librarySearch{dirs: libraryDirs(t.TempDir())}
	if err := search.add(dynamicProgram); err != nil {
		t.Fatal(err)
	}
	needs, err := neededBy(dynamicProgram)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := search.found[filepath.Base(needs.loader)]; !ok || needs.loader == "" {
		t.Errorf("the loader %q is not in %v", needs.loader, search.found)
	}
	if _, ok := search.found["libc.so.6"]; !ok {
		t.Errorf("the C library is not in %v", search.found)
	}
	for name, path := range search.found {
		needs, err := neededBy(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, needed := range needs.libraries {
			if _, ok := search.found[needed]; !ok {
				t.Errorf("%s needs %s, which is not in %v", name, needed, search.found)
			}
		}
	}
}

func TestLibrariesThatAreMissing(t *testing.T) {
	dir := t.TempDir()
	search := librarySearch{dirs: []string{dir}}
	err := search.add(dynamicProgram)
	if err == nil || !strings.Contains(err.Error(), "not found in "+dir) {
		t.Errorf("got %v, want an error that says where it looked", err)
	}
}

func TestNoLibrariesForOtherFiles(t *testing.T) {
	var search librarySearch // with nowhere to look
	dir := t.TempDir()
	for name, text := range map[string]string{"empty": "", "script": "#!/bin/sh\nexit\n"} {
		path := filepath.Join(dir, name)
		writeFile(t, path, text)
		if err := search.add(path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(search.found) > 0 {
		t.Errorf("found %v", search.found)
	}
	if err := search.add(filepath.Join(dir, "absent")); err == nil {
		t.Error("got no error for a file that is not there")
	}
}

// A directory with libraries of another machine is passed over.
func TestLibraryOfTheRightMachine(t *testing.T) {
	libc := librarySearch{dirs: libraryDirs(t.TempDir())}
	if err := libc.add(dynamicProgram); err != nil {
		t.Fatal(err)
	}
	right := libc.found["libc.so.6"]
	foreign, err := os.ReadFile(right)
	if err != nil {
		t.Fatal(err)
	}
	const machine = 18      // offset of e_machine in an ELF header, two bytes
	foreign[machine] = 0xf3 // EM_RISCV
	foreign[machine+1] = 0x00
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "libc.so.6"), string(foreign))

	search := librarySearch{dirs: []string{dir, filepath.Dir(right)}}
	if err := search.add(dynamicProgram); err != nil {
		t.Fatal(err)
	}
	if got := search.found["libc.so.6"]; got != right {
		t.Errorf("took %s, want %s", got, right)
	}
}

func TestLoaderConfig(t *testing.T) {
	dir := t.TempDir()
	main := filepath.Join(dir, "ld.so.conf")
	writeFile(t, main, "# comment\ninclude conf.d/*.conf\n/opt/lib # comment\n\ninclude "+dir+"/absent\n")
	writeFile(t, filepath.Join(dir, "conf.d/a.conf"), "/a/lib\n/b/lib\n")
	writeFile(t, filepath.Join(dir, "conf.d/b.other"), "/c/lib\n")
	got := loaderConfig(main)
	if want := []string{"/a/lib", "/b/lib", "/opt/lib"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
