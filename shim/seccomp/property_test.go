package seccomp

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

var (
	someActions = []specs.LinuxSeccompAction{
		specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess,
		specs.ActKillThread, specs.ActLog, specs.ActTrap, specs.ActTrace,
	}
	someOps = []specs.LinuxSeccompOperator{
		specs.OpEqualTo, specs.OpNotEqual, specs.OpGreaterThan, specs.OpGreaterEqual,
		specs.OpLessThan, specs.OpLessEqual, specs.OpMaskedEqual,
	}
	someValues = []uint64{
		0, 1, 2, 3, 5, 11, 0xffffffff, 0xfffffffe, 0x100000000, 0x100000001, 0x100000002,
		0x200000001, 0xffffffffffffffff, 0xfffffffffffffffe, 0x7fffffff, 0x80000000,
	}
	someNames = []string{
		"read", "write", "socket", "bind", "accept", "semop", "shmctl", "socketcall", "ipc",
		"clone", "personality", "readv", "open_tree_attr", "uselib", "set_tls", "nosuchcall", "waitpid",
	}
	someAudits = []uint32{0xc000003e, 0x40000003, 0xc00000b7, 0x40000028, 0xc00000f3, 0}
)

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func randomSection(r *rand.Rand, native abi) *specs.LinuxSeccomp {
	s := &specs.LinuxSeccomp{DefaultAction: pick(r, someActions)}
	all := []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	if native == aarch64 {
		all = []specs.Arch{specs.ArchAARCH64, specs.ArchARM}
	}
	for _, a := range all {
		if r.IntN(3) > 0 {
			s.Architectures = append(s.Architectures, a)
		}
	}
	if r.IntN(3) == 0 {
		e := uint(r.IntN(200))
		s.DefaultErrnoRet = &e
	}
	fewActions := []specs.LinuxSeccompAction{pick(r, someActions)}
	if r.IntN(2) == 0 {
		fewActions = append(fewActions, pick(r, someActions))
	}
	for range r.IntN(8) {
		call := specs.LinuxSyscall{Action: pick(r, fewActions)}
		for range 1 + r.IntN(4) {
			if r.IntN(3) == 0 {
				call.Names = append(call.Names, syscalls[r.IntN(len(syscalls))].name)
			} else {
				call.Names = append(call.Names, pick(r, someNames))
			}
		}
		if r.IntN(6) == 0 {
			e := uint(r.IntN(200))
			call.ErrnoRet = &e
		}
		if r.IntN(2) == 0 {
			for range 1 + r.IntN(3) {
				call.Args = append(call.Args, specs.LinuxSeccompArg{
					Index: uint(r.IntN(3)), Value: pick(r, someValues),
					ValueTwo: pick(r, someValues), Op: pick(r, someOps),
				})
			}
		}
		s.Syscalls = append(s.Syscalls, call)
	}
	return s
}

// randomCall prefers what the section is about.
func randomCall(r *rand.Rand, s *specs.LinuxSeccomp) data {
	d := data{arch: pick(r, someAudits[:4]), nr: uint32(r.IntN(600))}
	if r.IntN(20) == 0 {
		d.arch = pick(r, someAudits)
	}
	if len(s.Syscalls) > 0 && r.IntN(4) > 0 {
		if c := lookup(pick(r, pick(r, s.Syscalls).Names)); c != nil {
			a := abi(r.IntN(int(numArches)))
			d.arch, d.nr = a.audit(), uint32(c.nr[a])
			if a == x32 {
				d.nr |= 0x40000000
			}
		}
	}
	switch r.IntN(16) {
	case 0:
		d.nr = pick(r, []uint32{102, 117, 0xffffffff, 0x40000000, 0x3fffffff, 0x80000000, 0x7fffffff, 0xbfffffff, 983045})
	case 1:
		d.nr++
	case 2:
		d.nr--
	case 3:
		d.nr |= 0x40000000
	}
	for i := range d.args {
		if r.IntN(2) == 0 {
			d.args[i] = uint64(r.IntN(25))
		} else {
			d.args[i] = pick(r, someValues)
		}
	}
	return d
}

// agree compiles a section and compares it with the reference.
func agree(t *testing.T, r *rand.Rand, s *specs.LinuxSeccomp, native abi, calls int) bool {
	t.Helper()
	p, err := compile(s, native)
	if err != nil {
		if !errors.Is(err, errdefs.ErrNotImplemented) && !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Fatalf("error without a class: %v", err)
		}
		return false
	}
	if s.DefaultAction == "" {
		return false
	}
	prog := decode(p.Filter)
	ref := reference{section: s, native: native, lasts: map[abi]int64{}}
	for range calls {
		d := randomCall(r, s)
		if got, _ := interpret(t, prog, d); got != ref.eval(d) {
			t.Fatalf("%s: filter returns %#x, reference %#x\n%+v", d, got, ref.eval(d), s)
		}
	}
	return true
}

func TestAgreesWithReference(t *testing.T) {
	for name, native := range map[string]abi{"amd64": x86_64, "arm64": aarch64} {
		t.Run(name, func(t *testing.T) {
			compiled := 0
			for seed := range uint64(1500) {
				r := rand.New(rand.NewPCG(seed, 1))
				if agree(t, r, randomSection(r, native), native, 60) {
					compiled++
				}
			}
			if compiled < 300 {
				t.Fatalf("only %d of 1500 sections were compiled", compiled)
			}
			t.Logf("%d of 1500 sections compiled", compiled)
		})
	}
}
