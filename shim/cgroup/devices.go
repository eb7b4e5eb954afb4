package cgroup

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	devconfig "github.com/opencontainers/cgroups/devices/config"
	"golang.org/x/sys/unix"
)

// node is what one device rule matches; a number of -1 matches any.
type node struct {
	major, minor int64
	kind         devconfig.Type
}

// ruleSet is the state of a devices cgroup as the v1 kernel keeps it
// (security/device_cgroup.c): what happens by default, and the exceptions to it.
type ruleSet struct {
	allow      bool
	exceptions map[node]devconfig.Permissions
}

// newRuleSet applies the rules in their order to a cgroup that denies all. It
// refuses a rule that takes back part of what a wildcard gave, which the v1
// kernel would ignore without an error; runc refuses it too, on v2 as well.
func newRuleSet(rules []*devconfig.Rule) (*ruleSet, error) {
	s := &ruleSet{exceptions: make(map[node]devconfig.Permissions, len(rules))}
	for _, r := range rules {
		if r.Type == devconfig.WildcardDevice {
			s.allow = r.Allow
			clear(s.exceptions)
			continue
		}
		n := node{r.Major, r.Minor, r.Type}
		if r.Allow != s.allow {
			s.exceptions[n] = s.exceptions[n].Union(r.Permissions)
			continue
		}
		for _, wide := range []node{{-1, n.minor, n.kind}, {n.major, -1, n.kind}, {-1, -1, n.kind}} {
			if wide != n && !s.exceptions[wide].Intersection(r.Permissions).IsEmpty() {
				return nil, fmt.Errorf("device rule %q takes back part of a wildcard rule, which no cgroup can do; name the devices instead: %w", r.CgroupString(), errdefs.ErrInvalidArgument)
			}
		}
		if left := s.exceptions[n].Difference(r.Permissions); left.IsEmpty() {
			delete(s.exceptions, n)
		} else {
			s.exceptions[n] = left
		}
	}
	return s, nil
}

// nodes are the exceptions in a fixed order.
func (s *ruleSet) nodes() []node {
	out := make([]node, 0, len(s.exceptions))
	for n := range s.exceptions {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b node) int {
		switch {
		case a.major != b.major:
			return int(a.major - b.major)
		case a.minor != b.minor:
			return int(a.minor - b.minor)
		}
		return int(a.kind - b.kind)
	})
	return out
}

// parseDeviceList reads devices.list of the v1 kernel. Of a cgroup that allows
// by default it does not tell the exceptions.
func parseDeviceList(list string) (*ruleSet, error) {
	s := &ruleSet{exceptions: make(map[node]devconfig.Permissions)}
	for line := range strings.Lines(list) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		kind, rest, _ := strings.Cut(line, " ")
		numbers, access, _ := strings.Cut(rest, " ")
		major, minor, _ := strings.Cut(numbers, ":")
		if kind == "a" {
			return &ruleSet{allow: true}, nil
		}
		ma, err1 := parseNumber(major)
		mi, err2 := parseNumber(minor)
		if (kind != "b" && kind != "c") || err1 != nil || err2 != nil || access == "" || strings.Trim(access, "rwm") != "" {
			return nil, fmt.Errorf("the kernel's device rule %q is in no known form: %w", line, errdefs.ErrInternal)
		}
		n := node{ma, mi, devconfig.Type(kind[0])}
		s.exceptions[n] = s.exceptions[n].Union(devconfig.Permissions(access))
	}
	return s, nil
}

func parseNumber(s string) (int64, error) {
	if s == "*" {
		return devconfig.Wildcard, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return int64(n), err
}

// equal reports whether the kernel took every rule. Where devices are allowed by
// default only that can be known.
func (s *ruleSet) equal(o *ruleSet) bool {
	if s.allow || o.allow {
		return s.allow == o.allow
	}
	if len(s.exceptions) != len(o.exceptions) {
		return false
	}
	for n, p := range s.exceptions {
		if o.exceptions[n] != p {
			return false
		}
	}
	return true
}

// setDevices brings the v1 devices cgroup to the rules with the fewest writes
// that never open a gap for a device both sets allow, and reads them back: a
// cgroup that allows too much must not go unnoticed.
func setDevices(dir string, rules []*devconfig.Rule) error {
	want, err := newRuleSet(rules)
	if err != nil {
		return err
	}
	list, err := read(dir, "devices.list")
	if err != nil {
		return err
	}
	have, err := parseDeviceList(list)
	if err != nil {
		return err
	}
	if err := transition(have, want, dir); err != nil {
		return err
	}
	if list, err = read(dir, "devices.list"); err != nil {
		return err
	}
	if have, err = parseDeviceList(list); err != nil {
		return err
	}
	if !have.equal(want) {
		return fmt.Errorf("the devices cgroup %s did not take the rules it was given; is its parent stricter?: %w", dir, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func transition(have, want *ruleSet, dir string) (err error) {
	// Index 0 is devices.deny, 1 devices.allow: opened once for all rules.
	names := [2]string{"devices.deny", "devices.allow"}
	fds := [2]int{-1, -1}
	defer func() {
		for _, fd := range fds {
			if fd >= 0 {
				_ = unix.Close(fd)
			}
		}
	}()
	put := func(allow bool, rule string) error {
		i := 0
		if allow {
			i = 1
		}
		if fds[i] < 0 {
			if fds[i], err = open(dir, names[i], unix.O_WRONLY); err != nil {
				return err
			}
		}
		return writeFd(fds[i], dir, names[i], rule)
	}
	old := have.exceptions
	if have.allow || have.allow != want.allow {
		old = nil
		if err := put(want.allow, "a"); err != nil {
			return err
		}
	}
	for n, perms := range old {
		if drop := perms.Difference(want.exceptions[n]); !drop.IsEmpty() {
			if err := put(want.allow, n.rule(drop)); err != nil {
				return err
			}
		}
	}
	for _, n := range want.nodes() {
		if gain := want.exceptions[n].Difference(old[n]); !gain.IsEmpty() {
			if err := put(!want.allow, n.rule(gain)); err != nil {
				return err
			}
		}
	}
	return nil
}

// rule is the kernel's form: "c 1:3 rwm".
func (n node) rule(access devconfig.Permissions) string {
	r := devconfig.Rule{Type: n.kind, Major: n.major, Minor: n.minor, Permissions: access}
	return r.CgroupString()
}
