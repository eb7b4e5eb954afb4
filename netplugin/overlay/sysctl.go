package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// sysctls is where the kernel shows them; of those below net each thread sees the ones
// of its own network namespace.
const sysctls = "/proc/sys"

func hasIPv6() bool {
	_, err := os.Stat(filepath.Join(sysctls, forwarding6))
	return err == nil
}

// readSysctls reads those that a target wants, and who hears router advertisements if
// the target would have the kernel forward IPv6 and it doesn't yet.
func (s *snapshot) readSysctls(wanted []sysctl) error {
	s.sysctls = make(map[string]string)
	for _, w := range wanted {
		value, err := readSysctl(w.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // its link is still to be made
		}
		if err != nil {
			return err
		}
		s.sysctls[w.path] = value
	}
	forwards := slices.ContainsFunc(wanted, func(w sysctl) bool { return w.path == forwarding6 })
	if !forwards || s.sysctls[forwarding6] == "1" {
		return nil
	}
	var err error
	s.hearsRA, err = hearsRA()
	return err
}

// ours are the bridges, VXLAN devices and containers' links of all networks, which hear
// nobody's advertisements: some may be in the making, with the kernel's defaults.
var ours = regexp.MustCompile(`^(f[bx][0-9]+|fv[0-9a-f]{11})$`)

// hearsRA lists the interfaces that process router advertisements and would not if they
// forwarded: accept_ra is 1 (Documentation/networking/ip-sysctl.rst).
func hearsRA() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(sysctls, "net/ipv6/conf/*/accept_ra"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, file := range files {
		name := filepath.Base(filepath.Dir(file))
		if slices.Contains([]string{"all", "default", "lo"}, name) || ours.MatchString(name) {
			continue
		}
		accept, err := readSysctl("net/ipv6/conf/" + name + "/accept_ra")
		if err == nil && accept == "1" {
			var forwards string
			if forwards, err = readSysctl("net/ipv6/conf/" + name + "/forwarding"); err == nil && forwards == "0" {
				names = append(names, name)
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // the interface may be gone
			return nil, err
		}
	}
	return names, nil
}

func readSysctl(path string) (string, error) {
	value, err := os.ReadFile(filepath.Join(sysctls, path))
	if err != nil {
		return "", fmt.Errorf("read a sysctl: %w", err)
	}
	return strings.TrimSpace(string(value)), nil
}

func (c writeSysctl) apply() error {
	file, err := os.OpenFile(filepath.Join(sysctls, c.sysctl.path), os.O_WRONLY, 0)
	if err == nil {
		_, err = file.WriteString(c.sysctl.value)
		err = errors.Join(err, file.Close())
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, errReadOnly) {
		return fmt.Errorf("run with a writable %s, or set the sysctl yourself: %w: %w", sysctls, errdefs.ErrFailedPrecondition, err)
	}
	return err
}
