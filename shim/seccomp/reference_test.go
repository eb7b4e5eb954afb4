package seccomp

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// reference says what runc's filter returns for one call, straight from the
// section: nothing is prepared, merged or ordered.
type reference struct {
	section *specs.LinuxSeccomp
	native  abi
	// lasts remembers what last found.
	lasts map[abi]int64
}

var listNames = map[abi]specs.Arch{
	x86_64: specs.ArchX86_64, x86: specs.ArchX86, x32: specs.ArchX32,
	aarch64: specs.ArchAARCH64, arm: specs.ArchARM,
}

func (r reference) ret(act specs.LinuxSeccompAction, errno *uint) uint32 {
	e := uint32(1)
	if errno != nil {
		e = uint32(*errno)
	}
	return map[specs.LinuxSeccompAction]uint32{
		specs.ActKill: 0, specs.ActKillThread: 0, specs.ActKillProcess: 0x80000000,
		specs.ActTrap: 0x30000, specs.ActErrno: 0x50000 | e, specs.ActTrace: 0x7ff00000 | e,
		specs.ActLog: 0x7ffc0000, specs.ActAllow: 0x7fff0000,
	}[act]
}

func (r reference) listed(a abi) bool {
	return slices.Contains(r.section.Architectures, listNames[a])
}

// last is the largest number by name, for a stub.
func (r reference) last(a abi) (last int64) {
	if r.lasts[a] != 0 {
		return r.lasts[a]
	}
	defer func() { r.lasts[a] = last }()
	last = -1
	for _, call := range r.section.Syscalls {
		for _, name := range call.Names {
			for _, row := range syscalls {
				if row.name == name && row.nr[a] >= 0 && (a != x86 || row.mux == 0) {
					nr := int64(row.nr[a])
					if a == x32 {
						nr += 0x40000000
					}
					last = max(last, nr)
				}
			}
		}
	}
	return last
}

func (r reference) eval(d data) uint32 {
	def := r.ret(r.section.DefaultAction, r.section.DefaultErrnoRet)
	a := x86_64
	switch d.arch {
	case 0xc000003e:
		if d.nr >= 0x40000000 {
			a = x32
		}
	case 0x40000003:
		a = x86
	case 0xc00000b7:
		a = aarch64
	case 0x40000028:
		a = arm
	default:
		return 0
	}
	// The stub.
	pass := def == 0x7fff0000 || def == 0x7ffc0000 || def&0xffff0000 == 0x7ff00000
	if !pass {
		stub := a
		if a == x32 && d.nr&0x40000000 == 0 {
			stub = x86_64
		}
		if last := r.last(stub); r.listed(stub) && last > 0 && int64(d.nr) > last {
			return 0x50026
		}
	}
	// The architecture.
	if a != r.native && !r.listed(a) {
		if a == x32 && r.native == x86_64 && d.nr == 0xffffffff {
			return def
		}
		return 0
	}
	if a == x32 && d.nr >= 0x80000000 {
		return def
	}
	// The rules.
	matched, found := def, false
	for _, call := range r.section.Syscalls {
		ret := r.ret(call.Action, call.ErrnoRet)
		if ret == def {
			continue
		}
		for _, name := range call.Names {
			hit, always := r.hit(a, d, name, call.Args)
			if hit && always {
				return ret
			}
			if hit && !found {
				matched, found = ret, true
			}
		}
	}
	return matched
}

// hit says whether an entry is about this call, and whether it is so whatever
// the arguments.
func (r reference) hit(a abi, d data, name string, args []specs.LinuxSeccompArg) (hit, always bool) {
	i := slices.IndexFunc(syscalls[:], func(s syscall) bool { return s.name == name })
	if i < 0 {
		return false, false
	}
	row := &syscalls[i]
	if a == x86 && row.mux > 0 && row.mux < 100 && d.nr == 102 {
		return uint32(d.args[0]) == uint32(row.mux), false
	}
	if a == x86 && row.mux > 100 && d.nr == 117 {
		return uint32(d.args[0]) == uint32(row.mux)-100, false
	}
	nr := d.nr
	if a == x32 {
		nr &^= 0x40000000
	}
	if row.nr[a] < 0 || uint32(row.nr[a]) != nr {
		return false, false
	}
	if len(args) == 0 {
		return true, true
	}
	perArg := map[uint]int{}
	for _, c := range args {
		perArg[c.Index]++
	}
	or := false
	for _, n := range perArg {
		or = or || n > 1
	}
	all, some := true, false
	for _, c := range args {
		v, x, y := d.args[c.Index], c.Value, c.ValueTwo
		if a != x86_64 && a != aarch64 {
			v, x, y = v&0xffffffff, x&0xffffffff, y&0xffffffff
		}
		ok := map[specs.LinuxSeccompOperator]bool{
			specs.OpEqualTo: v == x, specs.OpNotEqual: v != x,
			specs.OpGreaterThan: v > x, specs.OpGreaterEqual: v >= x,
			specs.OpLessThan: v < x, specs.OpLessEqual: v <= x,
			specs.OpMaskedEqual: v&x == y&x,
		}[c.Op]
		all, some = all && ok, some || ok
	}
	if or {
		return some, false
	}
	return all, false
}
