package vm

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// librarySearch finds the shared libraries that programs need, and those that these need.
// It is not safe for concurrent use.
type librarySearch struct {
	dirs  []string          // where to look, in order
	found map[string]string // path on the host by the name in the VM's /lib
}

// add finds the libraries and the loader of a file. A file that is no ELF file, or one
// that is linked statically, needs none.
func (s *librarySearch) add(path string) error {
	if s.found == nil {
		s.found = map[string]string{}
	}
	needs, err := neededBy(path)
	if err != nil {
		return err
	}
	if loader := needs.loader; loader != "" {
		s.found[filepath.Base(loader)] = loader
	}
	for _, name := range needs.libraries {
		if _, ok := s.found[name]; ok {
			continue
		}
		library, err := s.find(name, needs.machine)
		if err != nil {
			return fmt.Errorf("%s needs %s: %w", path, name, err)
		}
		s.found[name] = library
		if err := s.add(library); err != nil {
			return err
		}
	}
	return nil
}

// find returns the path of the library with the name for a machine, as directories may
// hold those of several.
func (s *librarySearch) find(name string, machine elf.Machine) (string, error) {
	for _, dir := range s.dirs {
		path := filepath.Join(dir, name)
		f, err := elf.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		is := f.Machine
		if err := f.Close(); err != nil {
			return "", err
		}
		if is == machine {
			return path, nil
		}
	}
	return "", fmt.Errorf("not found in %s: install the package that has it", strings.Join(s.dirs, ", "))
}

// needs is what a file has to find in the VM to run.
type needs struct {
	machine   elf.Machine
	loader    string   // absolute path of the dynamic loader, or "" for a library
	libraries []string // names, as the loader looks for them
}

// neededBy reads what a file needs: nothing if it is no ELF file.
func neededBy(path string) (needs, error) {
	file, err := os.Open(path)
	if err != nil {
		return needs{}, fmt.Errorf("read %s: %w", path, err)
	}
	defer file.Close()
	magic := make([]byte, len(elf.ELFMAG))
	if _, err := io.ReadFull(file, magic); err != nil || string(magic) != elf.ELFMAG {
		return needs{}, nil // too short, or something else
	}
	f, err := elf.NewFile(file)
	if err != nil {
		return needs{}, fmt.Errorf("read the ELF file %s: %w", path, err)
	}
	n := needs{machine: f.Machine}
	for _, segment := range f.Progs {
		if segment.Type != elf.PT_INTERP {
			continue
		}
		loader, err := io.ReadAll(segment.Open())
		if err != nil {
			return needs{}, fmt.Errorf("read the loader's name in %s: %w", path, err)
		}
		n.loader = string(bytes.TrimRight(loader, "\x00"))
	}
	if n.libraries, err = f.ImportedLibraries(); err != nil {
		return needs{}, fmt.Errorf("read the libraries' names in %s: %w", path, err)
	}
	return n, nil
}

// libraryDirs returns the directories that libraries are looked for in: those of a tree
// of unpacked packages, then what the host's loader is configured with and its defaults.
func libraryDirs(unpacked string) []string {
	defaults := []string{
		"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu",
		"/lib64", "/usr/lib64", "/lib", "/usr/lib",
	}
	var dirs []string
	for _, dir := range defaults {
		dirs = append(dirs, filepath.Join(unpacked, dir))
	}
	dirs = append(dirs, loaderConfig("/etc/ld.so.conf")...)
	return append(dirs, defaults...)
}

// loaderConfig returns the directories in a configuration file of the dynamic loader and
// in those that it includes. What cannot be read is left out, as the loader does.
func loaderConfig(path string) []string {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var dirs []string
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		switch {
		case len(fields) == 2 && fields[0] == "include":
			pattern := fields[1]
			if !filepath.IsAbs(pattern) {
				pattern = filepath.Join(filepath.Dir(path), pattern)
			}
			files, _ := filepath.Glob(pattern) // the only error is a bad pattern
			for _, file := range files {
				dirs = append(dirs, loaderConfig(file)...)
			}
		case len(fields) == 1:
			dirs = append(dirs, fields[0])
		}
	}
	return dirs
}
