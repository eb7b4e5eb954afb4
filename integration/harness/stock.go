// Package harness runs private copies of stock containerd, with plugins of the bundle,
// for the tests, the demo and the benchmarks. A private containerd has its own root,
// state, sockets and namespace; the host's is not touched.
package harness

import (
	"fmt"
	"os"
	"path/filepath"
)

// Versions are the lines of containerd there are, the main target first.
var Versions = []string{"2.4", "1.7", "1.6"}

// Cache is the directory of stock parts and images: $PEREGRINE_CACHE, or peregrine in
// the user's cache directory.
func Cache() (string, error) {
	if dir := os.Getenv("PEREGRINE_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache: %w", err)
	}
	return filepath.Join(dir, "peregrine"), nil
}

// stockDirs are where the programs of a containerd line are, relative to the cache.
func stockDirs(version string) ([]string, error) {
	debian := []string{"debian/usr/bin", "debian/usr/sbin"} // containerd 1.6; runc
	switch version {
	case "2.4", "1.7":
		return append([]string{"containerd-" + version}, debian...), nil
	case "1.6":
		return debian, nil
	}
	return nil, fmt.Errorf("no containerd %q among the stock parts, want one of %q", version, Versions)
}

// stockPath is the PATH for a containerd line: its programs, then the host's.
func stockPath(cache, version string) (string, error) {
	dirs, err := stockDirs(version)
	if err != nil {
		return "", err
	}
	path := os.Getenv("PATH")
	for i := len(dirs) - 1; i >= 0; i-- {
		dir := filepath.Join(cache, dirs[i])
		if _, err := os.Stat(dir); err != nil {
			return "", fmt.Errorf("stock parts are missing (%w); run make stock", err)
		}
		path = dir + string(filepath.ListSeparator) + path
	}
	return path, nil
}
