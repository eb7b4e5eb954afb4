// Package seccomp compiles the seccomp section of an OCI runtime
// configuration to a classic BPF filter, without libseccomp.
//
// A filter means what runc 1.1 with libseccomp makes of the same section.
// What can't be promised to be the same is refused with
// errdefs.ErrNotImplemented, so that the caller runs the container with runc;
// no section is ever compiled to something weaker.
//
// The package doesn't load filters and does no input or output.
package seccomp

import (
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxInstructions is the longest filter the kernel loads
// (include/uapi/linux/bpf_common.h, BPF_MAXINSNS).
const maxInstructions = 4096

// Program is a compiled filter. The zero value means no filter: don't load
// anything. It holds no references and may be shared when not modified.
type Program struct {
	// Filter holds struct sock_filter after struct sock_filter
	// (include/uapi/linux/filter.h), 8 bytes each in little endian: on the
	// architectures supported, an array ready to be loaded by seccomp(2).
	// JSON carries it in base64.
	Filter []byte `json:"filter,omitempty"`
	// Flags are SECCOMP_FILTER_FLAG_LOG and SECCOMP_FILTER_FLAG_SPEC_ALLOW
	// (include/uapi/linux/seccomp.h).
	Flags uint32 `json:"flags,omitempty"`
}

// Len returns the number of instructions.
func (p Program) Len() int { return len(p.Filter) / instructionSize }

// Supported returns nil when filters can be compiled for the architecture
// this program was built for, else an errdefs.ErrNotImplemented that says
// why not.
func Supported() error {
	_, err := nativeABI(runtime.GOARCH)
	return err
}

// Compile translates a section (config-linux.md of the OCI runtime
// specification, "Seccomp") for the running architecture. s is only read. A
// nil or empty section gives the zero Program.
//
// Errors are errdefs.ErrNotImplemented when the container should be run by
// runc instead, and errdefs.ErrInvalidArgument when the section is malformed.
//
// The native architecture is always covered, and calls of an architecture not
// listed kill the thread. As in runc, calls with a larger number than all
// that the section names fail with ENOSYS on the architectures it lists,
// unless its default action lets calls pass: C libraries then fall back to
// older calls. When the filter is loaded without no_new_privs the process
// needs CAP_SYS_ADMIN, and everything done after loading it, execve
// included, has to be allowed by the section itself.
func Compile(s *specs.LinuxSeccomp) (Program, error) {
	native, err := nativeABI(runtime.GOARCH)
	if err != nil {
		return Program{}, err
	}
	return compile(s, native)
}

func compile(s *specs.LinuxSeccomp, native abi) (Program, error) {
	if s == nil || s.DefaultAction == "" && len(s.Syscalls) == 0 {
		return Program{}, nil
	}
	if s.ListenerPath != "" || s.ListenerMetadata != "" {
		return Program{}, fmt.Errorf("seccomp listeners are not handled here, use runc: %w", errdefs.ErrNotImplemented)
	}
	flags, err := parseFlags(s.Flags)
	if err != nil {
		return Program{}, err
	}
	p, err := resolve(s, native)
	if err != nil {
		return Program{}, err
	}
	filter, err := p.assemble()
	if err != nil {
		return Program{}, err
	}
	return Program{Filter: filter, Flags: flags}, nil
}

// resolve decides each call of each ABI covered.
func resolve(s *specs.LinuxSeccomp, native abi) (*policy, error) {
	set, err := parseArches(native, s.Architectures)
	if err != nil {
		return nil, err
	}
	def, err := parseAction(s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	p := &policy{abis: set, def: def}
	for a := range p.last {
		p.last[a] = noCall
	}
	for i := range s.Syscalls {
		if err := p.add(&s.Syscalls[i]); err != nil {
			return nil, err
		}
	}
	return p, nil
}
