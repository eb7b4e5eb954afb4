package seccomp

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	// retData masks the data of a filter's return value
	// (include/uapi/linux/seccomp.h, SECCOMP_RET_DATA).
	retData = 0xffff
	// maxErrno is the largest error the kernel returns for a caller.
	maxErrno = 4095
	maxArgs  = 6

	retENOSYS = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
)

// parseAction maps an action and its errno to a filter's return value. An
// errno is EPERM when absent and counts for ERRNO and TRACE only, as in runc.
func parseAction(act specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	ret := uint32(0)
	switch act {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActErrno:
		ret = unix.SECCOMP_RET_ERRNO
	case specs.ActTrace:
		ret = unix.SECCOMP_RET_TRACE
	case specs.ActNotify:
		return 0, fmt.Errorf("seccomp action %s needs a listener, use runc: %w", act, errdefs.ErrNotImplemented)
	default:
		return 0, fmt.Errorf("seccomp action %q is unknown, correct the profile: %w", act, errdefs.ErrInvalidArgument)
	}
	if errno == nil {
		return ret | uint32(unix.EPERM), nil
	}
	if *errno > maxErrno {
		return 0, fmt.Errorf("seccomp errno %d is more than %d, use runc: %w", *errno, maxErrno, errdefs.ErrNotImplemented)
	}
	return ret | uint32(*errno), nil
}

// permissive says whether a return value lets the call go ahead. TRACE
// counts: a tracer decides, and runc treats it so.
func permissive(ret uint32) bool {
	switch ret &^ retData {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE:
		return true
	}
	return false
}

// parseFlags maps flags to those of seccomp(2). SPEC_ALLOW is never set
// unasked: without it the kernel may only be stricter.
func parseFlags(list []specs.LinuxSeccompFlag) (uint32, error) {
	flags := uint32(0)
	for _, f := range list {
		switch f {
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		default:
			return 0, fmt.Errorf("seccomp flag %q is not handled here, use runc: %w", f, errdefs.ErrNotImplemented)
		}
	}
	return flags, nil
}

// op is a comparison of an argument with a value.
type op uint8

const (
	opEqual op = iota
	opNotEqual
	opGreater
	opGreaterEqual
	opLess
	opLessEqual
	opMasked
)

// cond is one condition on an argument. For opMasked, a call matches when
// the argument and value agree in the bits of mask.
type cond struct {
	arg   uint8
	op    op
	value uint64
	mask  uint64
}

// parseArg checks one condition. OCI's value is the mask of MASKED_EQ and
// valueTwo what is compared, as in libseccomp's scmp_arg_cmp.
func parseArg(a *specs.LinuxSeccompArg, narrow bool) (cond, error) {
	c := cond{value: a.Value, mask: ^uint64(0)}
	if a.Index >= maxArgs {
		return c, fmt.Errorf("seccomp argument index %d is more than %d, correct the profile: %w", a.Index, maxArgs-1, errdefs.ErrInvalidArgument)
	}
	c.arg = uint8(a.Index)
	switch a.Op {
	case specs.OpEqualTo:
		c.op = opEqual
	case specs.OpNotEqual:
		c.op = opNotEqual
	case specs.OpGreaterThan:
		c.op = opGreater
	case specs.OpGreaterEqual:
		c.op = opGreaterEqual
	case specs.OpLessThan:
		c.op = opLess
	case specs.OpLessEqual:
		c.op = opLessEqual
	case specs.OpMaskedEqual:
		c.op, c.mask, c.value = opMasked, a.Value, a.ValueTwo
		// libseccomp drops such a condition, and with it the rule may turn
		// into one without conditions, which then wins over others.
		if c.mask == 0 || narrow && uint32(c.mask) == 0 {
			return c, fmt.Errorf("seccomp mask %#x compares nothing, use runc: %w", c.mask, errdefs.ErrNotImplemented)
		}
	default:
		return c, fmt.Errorf("seccomp operator %q is unknown, correct the profile: %w", a.Op, errdefs.ErrInvalidArgument)
	}
	return c, nil
}
