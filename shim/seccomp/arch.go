package seccomp

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// abi is one calling convention of system calls: a column of the table.
type abi int

const (
	x86_64 abi = iota
	x86
	x32
	aarch64
	arm
	numArches
)

// x32Bit marks an x32 call: the kernel gives it x86_64's audit value
// (arch/x86/include/uapi/asm/unistd.h, __X32_SYSCALL_BIT).
const x32Bit = 0x40000000

// noCall says that an architecture doesn't have a call.
const noCall = -1

// syscall is a row of the table.
type syscall struct {
	name string
	// nr is the call's number by architecture, or noCall.
	nr [numArches]int32
	// mux is the call's number inside socketcall(2) on x86, or ipcBase plus
	// its number inside ipc(2), or 0.
	mux uint8
}

const (
	ipcBase = 100

	x86Socketcall = 102
	x86IPC        = 117
)

// muxed returns x86's multiplexing call and the first argument that selects
// this call in it.
func (c *syscall) muxed() (nr int32, selector uint64) {
	if c.mux > ipcBase {
		return x86IPC, uint64(c.mux - ipcBase)
	}
	return x86Socketcall, uint64(c.mux)
}

// lookup finds a call by name, or nil.
func lookup(name string) *syscall {
	low, high := 0, len(syscalls)
	for low < high {
		mid := int(uint(low+high) / 2)
		if syscalls[mid].name < name {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == len(syscalls) || syscalls[low].name != name {
		return nil
	}
	return &syscalls[low]
}

// audit returns the value seccomp_data.arch has (include/uapi/linux/audit.h).
func (a abi) audit() uint32 {
	switch a {
	case x86_64, x32:
		return unix.AUDIT_ARCH_X86_64
	case x86:
		return unix.AUDIT_ARCH_I386
	case aarch64:
		return unix.AUDIT_ARCH_AARCH64
	default:
		return unix.AUDIT_ARCH_ARM
	}
}

// wide says whether arguments are compared as 64 bits. libseccomp compares
// only the low half of x32's.
func (a abi) wide() bool { return a == x86_64 || a == aarch64 }

// abis is the set of ABIs a filter covers.
type abis struct {
	native abi
	// listed are those named by the section, native and those in any order.
	listed [numArches]bool
}

func (a abis) has(b abi) bool { return b == a.native || a.listed[b] }

// narrow says whether an ABI with 32-bit arguments is covered.
func (a abis) narrow() bool { return a.listed[x86] || a.listed[x32] || a.listed[arm] }

// parseArches reads the section's architectures. The native one is always
// covered; one that this machine's kernel can never report is left to runc.
func parseArches(native abi, list []specs.Arch) (abis, error) {
	set := abis{native: native}
	for _, name := range list {
		var a abi
		switch name {
		case specs.ArchX86_64:
			a = x86_64
		case specs.ArchX86:
			a = x86
		case specs.ArchX32:
			a = x32
		case specs.ArchAARCH64:
			a = aarch64
		case specs.ArchARM:
			a = arm
		default:
			return set, fmt.Errorf("seccomp architecture %q is not handled here, use runc: %w", name, errdefs.ErrNotImplemented)
		}
		if (a == aarch64 || a == arm) != (native == aarch64) {
			return set, fmt.Errorf("seccomp architecture %q is foreign to this machine, use runc: %w", name, errdefs.ErrNotImplemented)
		}
		set.listed[a] = true
	}
	return set, nil
}

// nativeABI maps GOARCH to its ABI.
func nativeABI(goarch string) (abi, error) {
	switch goarch {
	case "amd64":
		return x86_64, nil
	case "arm64":
		return aarch64, nil
	}
	return 0, fmt.Errorf("seccomp filters are not compiled for %s, use runc: %w", goarch, errdefs.ErrNotImplemented)
}
