package seccomp

import (
	"slices"
	"strings"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
)

func TestTableOrder(t *testing.T) {
	if !slices.IsSortedFunc(syscalls[:], func(a, b syscall) int { return strings.Compare(a.name, b.name) }) {
		t.Error("not sorted by name")
	}
	for a := range numArches {
		seen := map[int32]string{}
		for i := range syscalls {
			c := &syscalls[i]
			if lookup(c.name) != c {
				t.Errorf("%s is not found", c.name)
			}
			nr := c.nr[a]
			if nr == noCall {
				continue
			}
			if seen[nr] != "" {
				t.Errorf("architecture %d: %s and %s have number %d", a, seen[nr], c.name, nr)
			}
			seen[nr] = c.name
			if s := slotOf(nr); s < 0 || s >= numSlots || numberOf(s) != uint32(nr) {
				t.Errorf("%s has no slot for %d", c.name, nr)
			}
		}
	}
}

// TestTableNumbers compares with a table made by others. Theirs ignores that
// the kernel leaves some of the calls out of 64-bit arm and of x32.
func TestTableNumbers(t *testing.T) {
	for a, info := range map[abi]*arch.Info{
		x86_64: arch.X86_64, x86: arch.I386, x32: arch.X32, aarch64: arch.AARCH64, arm: arch.ARM,
	} {
		for i := range syscalls {
			c := &syscalls[i]
			// By number: their x32 has some names twice.
			if c.nr[a] == noCall || a == aarch64 && c.name == "newfstatat" {
				continue
			}
			if name := info.SyscallNumbers[int(c.nr[a])]; name != c.name {
				t.Errorf("%s: %d is %s here and %q there", info.Name, c.nr[a], c.name, name)
			}
		}
		for name := range info.SyscallNames {
			c := lookup(name)
			if c != nil && c.nr[a] != noCall {
				continue
			}
			switch {
			case a == x32:
				// x86_64's own calls, which x32 doesn't have.
			case a == aarch64 && (strings.HasSuffix(name, "64") || name == "arch_specific_syscall" || name == "fstatat"):
			default:
				t.Errorf("%s: %s is only there", info.Name, name)
			}
		}
	}
}
