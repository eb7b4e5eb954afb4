package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	devconfig "github.com/opencontainers/cgroups/devices/config"
	"golang.org/x/sys/unix"
)

func rule(allow bool, kind devconfig.Type, major, minor int64, access devconfig.Permissions) *devconfig.Rule {
	return &devconfig.Rule{Type: kind, Major: major, Minor: minor, Permissions: access, Allow: allow}
}

func (s *ruleSet) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v", s.allow)
	for _, n := range s.nodes() {
		fmt.Fprintf(&b, " [%s]", n.rule(s.exceptions[n]))
	}
	return b.String()
}

func TestRuleSet(t *testing.T) {
	for name, tc := range map[string]struct {
		rules []*devconfig.Rule
		want  string
	}{
		"empty denies":    {nil, "false"},
		"merged":          {[]*devconfig.Rule{rule(true, 'c', 1, 3, "r"), rule(true, 'c', 1, 3, "w")}, "false [c 1:3 rw]"},
		"taken back":      {[]*devconfig.Rule{rule(true, 'c', 1, 3, "rwm"), rule(false, 'c', 1, 3, "w")}, "false [c 1:3 rm]"},
		"wiped":           {[]*devconfig.Rule{rule(true, 'c', 1, 3, "rwm"), rule(false, 'a', -1, -1, "rwm")}, "false"},
		"all but":         {[]*devconfig.Rule{rule(true, 'a', -1, -1, "rwm"), rule(false, 'b', 8, -1, "w")}, "true [b 8:* w]"},
		"beside wildcard": {[]*devconfig.Rule{rule(true, 'c', -1, -1, "m"), rule(false, 'c', 1, 3, "r")}, "false [c *:* m]"},
		"hole":            {[]*devconfig.Rule{rule(true, 'c', 1, -1, "r"), rule(false, 'c', 1, 3, "r")}, ""},
	} {
		s, err := newRuleSet(tc.rules)
		if tc.want == "" {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("%s: got %v", name, err)
			}
			continue
		}
		if err != nil || s.String() != tc.want {
			t.Errorf("%s: got %v, %v; want %s", name, s, err, tc.want)
		}
	}
}

func TestParseDeviceList(t *testing.T) {
	for in, want := range map[string]string{
		"a *:* rwm\n":               "true",
		"":                          "false",
		"c 1:3 rwm\nb *:* m\n":      "false [b *:* m] [c 1:3 rwm]",
		"c 136:* rw\nc 136:* m\n":   "false [c 136:* rwm]",
		"x 1:3 rwm\n":               "error",
		"c 1:3\n":                   "error",
		"c one:3 rwm\n":             "error",
		"c 1:3 rwx\n":               "error",
		"c 99999999999999:3 rwm\n":  "error",
		"c -1:3 rwm\n":              "error",
		"b 4294967295:4294967295 r": "false [b 4294967295:4294967295 r]",
	} {
		got := "error"
		if s, err := parseDeviceList(in); err == nil {
			got = s.String()
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

func FuzzParseDeviceList(f *testing.F) {
	f.Add("c 1:3 rwm\nb *:* m\n")
	f.Fuzz(func(t *testing.T, in string) {
		s, err := parseDeviceList(in)
		if err != nil || s.allow {
			return
		}
		var b strings.Builder
		for _, n := range s.nodes() {
			b.WriteString(n.rule(s.exceptions[n]) + "\n")
		}
		again, err := parseDeviceList(b.String())
		if err != nil || !s.equal(again) {
			t.Errorf("%q reads back as %v, %v", in, again, err)
		}
	})
}

// decide is what the rule set says of one access, written independently of the
// program.
func (s *ruleSet) decide(kind devconfig.Type, major, minor int64, access devconfig.Permissions) bool {
	for n, p := range s.exceptions {
		if n.kind != kind || (n.major >= 0 && n.major != major) || (n.minor >= 0 && n.minor != minor) {
			continue
		}
		if s.allow && !access.Intersection(p).IsEmpty() || !s.allow && access.Difference(p).IsEmpty() {
			return !s.allow
		}
	}
	return s.allow
}

// run interprets a device program.
func run(code []byte, kind, access, major, minor uint32) (uint32, error) {
	var r [6]uint64
	ctx := [3]uint32{access<<16 | kind, major, minor}
	for pc, steps := 0, 0; steps < 10000; steps++ {
		if pc*8+8 > len(code) {
			return 0, errors.New("ran over the end")
		}
		ins := code[pc*8:]
		dst, src := ins[1]&15, ins[1]>>4
		off := int16(binary.NativeEndian.Uint16(ins[2:]))
		imm := binary.NativeEndian.Uint32(ins[4:])
		pc++
		switch ins[0] {
		case opLoadWord:
			r[dst] = uint64(ctx[off/4])
		case opAnd32:
			r[dst] = uint64(uint32(r[dst]) & imm)
		case opShiftRight:
			r[dst] = uint64(uint32(r[dst]) >> imm)
		case opMove32:
			r[dst] = uint64(imm)
		case opMove32Reg:
			r[dst] = uint64(uint32(r[src]))
		case opJumpNot32:
			if uint32(r[dst]) != imm {
				pc += int(off)
			}
		case opJumpNotReg:
			if r[dst] != r[src] {
				pc += int(off)
			}
		case opJumpIs32:
			if uint32(r[dst]) == imm {
				pc += int(off)
			}
		case opExit:
			return uint32(r[0]), nil
		default:
			return 0, fmt.Errorf("unknown instruction %#x", ins[0])
		}
	}
	return 0, errors.New("does not end")
}

// TestDeviceProgram checks that for any rules the v2 program decides as the v1
// kernel would.
func TestDeviceProgram(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	access := []devconfig.Permissions{"r", "w", "m", "rw", "rm", "wm", "rwm"}
	bits := map[rune]uint32{'m': 1, 'r': 2, 'w': 4}
	for range 300 {
		var rules []*devconfig.Rule
		for range rnd.IntN(8) {
			kind := []devconfig.Type{'a', 'b', 'c', 'c', 'b'}[rnd.IntN(5)]
			rules = append(rules, rule(rnd.IntN(2) == 0, kind, rnd.Int64N(4)-1, rnd.Int64N(4)-1, access[rnd.IntN(len(access))]))
		}
		s, err := newRuleSet(rules)
		if err != nil {
			continue
		}
		code := deviceProgram(s)
		for _, kind := range []devconfig.Type{'b', 'c'} {
			for major := range int64(4) {
				for minor := range int64(4) {
					for _, a := range access {
						var want uint32
						if s.decide(kind, major, minor, a) {
							want = 1
						}
						var mask uint32
						for _, c := range a {
							mask |= bits[c]
						}
						k := uint32(1)
						if kind == 'c' {
							k = 2
						}
						got, err := run(code, k, mask, uint32(major), uint32(minor))
						if err != nil || got != want {
							t.Fatalf("%v: %c %d:%d %s is %d, %v; want %d", s, kind, major, minor, a, got, err, want)
						}
					}
				}
			}
		}
	}
}

// TestDevicesUnified loads programs into the kernel, on hybrid hosts too.
func TestDevicesUnified(t *testing.T) {
	h := warm(t)
	c := newCgroup(t, h, testPath(t), ctrResources())
	if err := c.makeAll(); err != nil {
		t.Fatal(err)
	}
	dir := c.paths[""]
	// The second time replaces the first.
	for range 2 {
		if err := setDevicesUnified(dir, c.resources.Devices); err != nil {
			t.Fatal(err)
		}
	}
	d, err := c.Dir()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	fds, err := attachedPrograms(int(d.Fd()))
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	if err != nil || len(fds) != 1 {
		t.Errorf("%d programs are attached, %v; want 1", len(fds), err)
	}
	for device, want := range map[string]string{"/dev/null": "ok\n", "/dev/kmsg": "operation not permitted\n"} {
		if got := startIn(t, c, "open", device).said; got != want {
			t.Errorf("opening %s: %q, want %q", device, got, want)
		}
	}
}
