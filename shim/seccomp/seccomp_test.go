package seccomp

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func ptr(v uint) *uint { return &v }

func defaultProfile(caps ...string) *specs.LinuxSeccomp {
	return containerd.DefaultProfile(&specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}},
	})
}

func call(act specs.LinuxSeccompAction, args []specs.LinuxSeccompArg, names ...string) specs.LinuxSyscall {
	return specs.LinuxSyscall{Names: names, Action: act, Args: args}
}

func arg(index uint, op specs.LinuxSeccompOperator, value, two uint64) specs.LinuxSeccompArg {
	return specs.LinuxSeccompArg{Index: index, Op: op, Value: value, ValueTwo: two}
}

func TestSemantics(t *testing.T) {
	const (
		eperm = 0x50001
		allow = 0x7fff0000
		a64   = 0xc000003e
		a32   = 0x40000003
	)
	one := []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, 1, 0)}
	all := []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	for _, tc := range []struct {
		name  string
		s     specs.LinuxSeccomp
		calls map[data]uint32
	}{
		{
			"errno defaults to EPERM, unlisted architectures are killed",
			specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{call(specs.ActAllow, nil, "read")}},
			map[data]uint32{
				{nr: 0, arch: a64}: allow, {nr: 1, arch: a64}: eperm, {nr: 900, arch: a64}: eperm,
				{nr: 0, arch: a32}: 0, {nr: 0x40000000, arch: a64}: 0, {nr: 0xffffffff, arch: a64}: eperm,
			},
		},
		{
			"newer calls than the profile get ENOSYS",
			specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: all, Syscalls: []specs.LinuxSyscall{call(specs.ActAllow, nil, "openat2")}},
			map[data]uint32{
				{nr: 437, arch: a64}: allow, {nr: 436, arch: a64}: eperm, {nr: 438, arch: a64}: retENOSYS,
				{nr: 438, arch: a32}: retENOSYS, {nr: 0x40000000 + 436, arch: a64}: eperm, {nr: 0x40000000 + 438, arch: a64}: retENOSYS,
			},
		},
		{
			"x32 not listed is killed although x86_64 has newer calls",
			specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: all[:1], Syscalls: []specs.LinuxSyscall{call(specs.ActAllow, nil, "openat2")}},
			map[data]uint32{
				{nr: 438, arch: a64}: retENOSYS, {nr: 0x40000000, arch: a64}: 0, {nr: 0x400001ff, arch: a64}: 0,
				{nr: 0x80000000, arch: a64}: retENOSYS, {nr: 0xc0000000, arch: a64}: 0, {nr: 0xffffffff, arch: a64}: eperm,
			},
		},
		{
			"no ENOSYS when calls pass by default",
			specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: all, Syscalls: []specs.LinuxSyscall{call(specs.ActErrno, nil, "openat2")}},
			map[data]uint32{{nr: 437, arch: a64}: eperm, {nr: 438, arch: a64}: allow},
		},
		{
			"the first rule without conditions wins",
			specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
				call(specs.ActKillProcess, one, "write"), call(specs.ActAllow, nil, "write"), call(specs.ActTrap, nil, "write"),
			}},
			map[data]uint32{{nr: 1, arch: a64, args: [6]uint64{1}}: allow},
		},
		{
			"a rule that repeats the default is skipped",
			specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
				call(specs.ActErrno, nil, "write"), call(specs.ActAllow, nil, "write"),
			}},
			map[data]uint32{{nr: 1, arch: a64}: allow},
		},
		{
			"two conditions on one argument are alternatives, on two they add up",
			specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
				call(specs.ActAllow, []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, 1, 0), arg(0, specs.OpEqualTo, 2, 0)}, "write"),
				call(specs.ActAllow, []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, 1, 0), arg(1, specs.OpEqualTo, 2, 0)}, "close"),
			}},
			map[data]uint32{
				{nr: 1, arch: a64, args: [6]uint64{1}}: allow, {nr: 1, arch: a64, args: [6]uint64{2}}: allow, {nr: 1, arch: a64, args: [6]uint64{3}}: eperm,
				{nr: 3, arch: a64, args: [6]uint64{1, 2}}: allow, {nr: 3, arch: a64, args: [6]uint64{1, 1}}: eperm, {nr: 3, arch: a64, args: [6]uint64{2, 2}}: eperm,
			},
		},
		{
			"x86 multiplexes sockets",
			specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: all, Syscalls: []specs.LinuxSyscall{
				call(specs.ActAllow, []specs.LinuxSeccompArg{arg(0, specs.OpNotEqual, 40, 0)}, "socket"), call(specs.ActAllow, nil, "openat2"),
			}},
			map[data]uint32{
				{nr: 41, arch: a64, args: [6]uint64{40}}: eperm, {nr: 41, arch: a64, args: [6]uint64{2}}: allow,
				{nr: 359, arch: a32, args: [6]uint64{40}}: eperm, {nr: 359, arch: a32, args: [6]uint64{2}}: allow,
				{nr: 102, arch: a32, args: [6]uint64{1}}: allow, {nr: 102, arch: a32, args: [6]uint64{2}}: eperm,
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := compile(&tc.s, x86_64)
			if err != nil {
				t.Fatal(err)
			}
			for d, want := range tc.calls {
				if got, _ := interpret(t, decode(p.Filter), d); got != want {
					t.Errorf("%s: %#x, want %#x", d, got, want)
				}
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	deny := func(calls ...specs.LinuxSyscall) specs.LinuxSeccomp {
		return specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86}, Syscalls: calls}
	}
	args := func(a ...specs.LinuxSeccompArg) []specs.LinuxSeccompArg { return a }
	for _, tc := range []struct {
		name string
		s    specs.LinuxSeccomp
		want error
	}{
		{"notify", deny(call(specs.ActNotify, nil, "read")), errdefs.ErrNotImplemented},
		{"listener", specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/x"}, errdefs.ErrNotImplemented},
		{"flag", specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC"}}, errdefs.ErrNotImplemented},
		{"architecture", specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchS390X}}, errdefs.ErrNotImplemented},
		{"foreign architecture", specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchARM}}, errdefs.ErrNotImplemented},
		{"unknown denied call", specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{call(specs.ActErrno, nil, "nosuchcall")}}, errdefs.ErrNotImplemented},
		{"overlap", deny(
			call(specs.ActAllow, args(arg(0, specs.OpEqualTo, 1, 0)), "read"), call(specs.ActTrap, args(arg(0, specs.OpLessThan, 2, 0)), "read"),
		), errdefs.ErrNotImplemented},
		{"multiplexed arguments", deny(call(specs.ActAllow, args(arg(1, specs.OpEqualTo, 1, 0)), "socket")), errdefs.ErrNotImplemented},
		{"empty mask", deny(call(specs.ActAllow, args(arg(0, specs.OpMaskedEqual, 0, 0)), "read")), errdefs.ErrNotImplemented},
		{"errno", specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: ptr(70000)}, errdefs.ErrNotImplemented},
		{"no default", specs.LinuxSeccomp{Syscalls: []specs.LinuxSyscall{call(specs.ActErrno, nil, "read")}}, errdefs.ErrInvalidArgument},
		{"action", deny(call("SCMP_ACT_SING", nil, "read")), errdefs.ErrInvalidArgument},
		{"operator", deny(call(specs.ActAllow, args(arg(0, "SCMP_CMP_SING", 0, 0)), "read")), errdefs.ErrInvalidArgument},
		{"index", deny(call(specs.ActAllow, args(arg(6, specs.OpEqualTo, 0, 0)), "read")), errdefs.ErrInvalidArgument},
		{"empty name", deny(call(specs.ActAllow, nil, "")), errdefs.ErrInvalidArgument},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := compile(&tc.s, x86_64)
			if !errors.Is(err, tc.want) {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
			if p.Len() != 0 {
				t.Fatal("a refused section has a filter")
			}
		})
	}
}

func TestNothingToFilter(t *testing.T) {
	for _, s := range []*specs.LinuxSeccomp{nil, {}} {
		if p, err := Compile(s); err != nil || p.Len() != 0 || p.Flags != 0 {
			t.Errorf("%+v: %+v, %v", s, p, err)
		}
	}
}

func TestFlags(t *testing.T) {
	p, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{
		specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow,
	}})
	if err != nil || p.Flags != 6 {
		t.Fatalf("flags %#x, %v", p.Flags, err)
	}
}

func TestDefaultProfile(t *testing.T) {
	for _, caps := range [][]string{nil, {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_BPF"}} {
		s := defaultProfile(caps...)
		p, err := Compile(s)
		if err != nil {
			t.Fatal(err)
		}
		native, _ := nativeABI(runtime.GOARCH)
		r := rand.New(rand.NewPCG(1, 2))
		agree(t, r, s, native, 1000)
		steps, n := 0, 0
		for nr := range uint32(450) {
			_, took := interpret(t, decode(p.Filter), data{nr: nr, arch: native.audit()})
			steps, n = steps+took, n+1
		}
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d instructions, %d on average per call, %d bytes of JSON", p.Len(), steps/n, len(b))
		if steps/n > 16 {
			t.Errorf("%d instructions on average per call", steps/n)
		}
	}
}

// TestLongJumps makes more branches than a conditional jump can skip.
func TestLongJumps(t *testing.T) {
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 3))
		s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86}}
		for i, c := range syscalls {
			if c.mux != 0 || i%3 != 0 {
				continue
			}
			s.Syscalls = append(s.Syscalls, call(pick(r, []specs.LinuxSeccompAction{specs.ActAllow, specs.ActTrap, specs.ActLog}), []specs.LinuxSeccompArg{
				arg(uint(r.IntN(2)), pick(r, someOps), pick(r, someValues)|1, pick(r, someValues)),
				arg(2, pick(r, someOps), pick(r, someValues)|1, 0),
			}, c.name))
		}
		if !agree(t, r, s, x86_64, 100) {
			t.Fatal("not compiled")
		}
	}
}

func TestTooLong(t *testing.T) {
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	for i := range uint64(1100) {
		s.Syscalls = append(s.Syscalls, call(specs.ActAllow, []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, i, 0)}, "read"))
	}
	if _, err := Compile(s); !errors.Is(err, errdefs.ErrNotImplemented) || !strings.Contains(err.Error(), "4096") {
		t.Fatalf("error %v", err)
	}
}

func FuzzCompile(f *testing.F) {
	seed, err := json.Marshal(defaultProfile())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["socket"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":40,"op":"SCMP_CMP_EQ"}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &specs.LinuxSeccomp{}
		if json.Unmarshal(b, s) != nil {
			return
		}
		agree(t, rand.New(rand.NewPCG(1, 1)), s, x86_64, 20)
		agree(t, rand.New(rand.NewPCG(1, 1)), s, aarch64, 20)
	})
}

func BenchmarkCompileDefault(b *testing.B) {
	s := defaultProfile()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(s); err != nil {
			b.Fatal(err)
		}
	}
}
