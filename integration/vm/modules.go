package vm

import (
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// modules is the tree of modules of one kernel. Debian's package has no modules.dep: that
// is made by depmod at installation. So dependencies are read where depmod, for most
// purposes, finds them as well: in the modules.
type modules struct {
	paths   map[string]string // of the module's file, by name
	builtin map[string]bool   // by name
	depends func(path string) ([]string, error)
}

// openModules indexes the directory lib/modules/VERSION of a kernel with uncompressed
// modules.
func openModules(dir string) (*modules, error) {
	m := &modules{paths: map[string]string{}, builtin: map[string]bool{}, depends: moduleDepends}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".ko" {
			m.paths[moduleName(path)] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the kernel's modules: %w", err)
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("read the kernel's modules: %w", err)
	}
	for line := range strings.Lines(string(builtin)) {
		m.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	return m, nil
}

// moduleName returns the name of a module from its path or a spelling of its name: the
// kernel takes - and _ for the same.
func moduleName(path string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(path), ".ko"), "-", "_")
}

// loadOrder returns the paths of the named modules and of all they depend on, each after
// what it depends on. What is built into the kernel needs no loading. Loops in the
// dependencies, which no kernel has, are cut.
func (m *modules) loadOrder(names []string) ([]string, error) {
	var order []string
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		name = moduleName(name)
		if seen[name] || m.builtin[name] {
			return nil
		}
		seen[name] = true
		path, ok := m.paths[name]
		if !ok {
			return fmt.Errorf("the kernel has no module %s", name)
		}
		depends, err := m.depends(path)
		if err != nil {
			return err
		}
		for _, dependency := range depends {
			if err := visit(dependency); err != nil {
				return fmt.Errorf("%w, which %s depends on", err, name)
			}
		}
		order = append(order, path)
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleDepends reads the names of the modules that a module's file depends on.
func moduleDepends(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the module %s: %w", path, err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("%s is not a kernel module: it has no section .modinfo", path)
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read the module %s: %w", path, err)
	}
	return parseDepends(info), nil
}

// parseDepends returns the dependencies in the content of a section .modinfo, which is a
// series of KEY=VALUE, each ended by a zero byte.
func parseDepends(info []byte) []string {
	for field := range strings.SplitSeq(string(info), "\x00") {
		if names, ok := strings.CutPrefix(field, "depends="); ok && names != "" {
			return strings.Split(names, ",")
		}
	}
	return nil
}
