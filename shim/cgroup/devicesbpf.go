package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"unsafe"

	devconfig "github.com/opencontainers/cgroups/devices/config"
	"golang.org/x/sys/unix"
)

// Operation codes of the eBPF instructions used here
// (Documentation/bpf/standardization/instruction-set.rst).
const (
	opLoadWord   = 0x61 // dst = *(u32 *)(src + off)
	opAnd32      = 0x54 // dst &= imm
	opShiftRight = 0x74 // dst >>= imm, 32 bits
	opMove32     = 0xb4 // dst = imm
	opMove32Reg  = 0xbc // dst = src, 32 bits
	opJumpNot32  = 0x56 // if dst != imm, 32 bits
	opJumpNotReg = 0x5d // if dst != src
	opJumpIs32   = 0x16 // if dst == imm, 32 bits
	opExit       = 0x95
)

// program assembles eBPF instructions of 8 bytes each.
type program []byte

func (p *program) add(op, dst, src byte, off int16, imm uint32) {
	b := append(*p, op, src<<4|dst)
	b = binary.NativeEndian.AppendUint16(b, uint16(off))
	*p = binary.NativeEndian.AppendUint32(b, imm)
}

// deviceProgram is a BPF_PROG_TYPE_CGROUP_DEVICE program that decides as the rule
// set does. Its argument is struct bpf_cgroup_dev_ctx: the type of the device in
// the lower and the access in the upper half of a word, then major and minor.
func deviceProgram(s *ruleSet) []byte {
	var p program
	p.add(opLoadWord, 2, 1, 0, 0)
	p.add(opAnd32, 2, 0, 0, 0xffff)
	p.add(opLoadWord, 3, 1, 0, 0)
	p.add(opShiftRight, 3, 0, 0, 16)
	p.add(opLoadWord, 4, 1, 4, 0)
	p.add(opLoadWord, 5, 1, 8, 0)
	verdict := func(allow bool) {
		p.add(opMove32, 0, 0, 0, uint32(boolBit(allow)))
		p.add(opExit, 0, 0, 0, 0)
	}
	for _, n := range s.nodes() {
		var access uint32
		for _, c := range s.exceptions[n] {
			access |= map[rune]uint32{'m': unix.BPF_DEVCG_ACC_MKNOD, 'r': unix.BPF_DEVCG_ACC_READ, 'w': unix.BPF_DEVCG_ACC_WRITE}[c]
		}
		kind := uint32(unix.BPF_DEVCG_DEV_CHAR)
		if n.kind == devconfig.BlockDevice {
			kind = unix.BPF_DEVCG_DEV_BLOCK
		}
		// Each test that fails jumps over the rest of this rule. Like the v1
		// kernel, a rule that allows must cover the whole access, and one that
		// denies any part of it.
		left := int16(3)
		const all = unix.BPF_DEVCG_ACC_MKNOD | unix.BPF_DEVCG_ACC_READ | unix.BPF_DEVCG_ACC_WRITE
		if access != all {
			left += 3
		}
		if n.major >= 0 {
			left++
		}
		if n.minor >= 0 {
			left++
		}
		skip := func() int16 { left--; return left }
		p.add(opJumpNot32, 2, 0, skip(), kind)
		if access != all {
			skip()
			p.add(opMove32Reg, 1, 3, 0, 0)
			skip()
			p.add(opAnd32, 1, 0, 0, access)
			if s.allow {
				p.add(opJumpIs32, 1, 0, skip(), 0)
			} else {
				p.add(opJumpNotReg, 1, 3, skip(), 0)
			}
		}
		if n.major >= 0 {
			p.add(opJumpNot32, 4, 0, skip(), uint32(n.major))
		}
		if n.minor >= 0 {
			p.add(opJumpNot32, 5, 0, skip(), uint32(n.minor))
		}
		verdict(!s.allow)
	}
	verdict(s.allow)
	return p
}

func boolBit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// setDevicesUnified attaches the rules to the v2 cgroup dir and detaches the
// programs attached to it before, as runc does. There is no moment without a
// program.
func setDevicesUnified(dir string, rules []*devconfig.Rule) error {
	s, err := newRuleSet(rules)
	if err != nil {
		return err
	}
	target, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open cgroup %s: %w", dir, err)
	}
	defer func() { _ = unix.Close(target) }()
	before, err := attachedPrograms(target)
	if err != nil {
		return err
	}
	defer func() {
		for _, fd := range before {
			_ = unix.Close(fd)
		}
	}()
	prog, err := loadProgram(deviceProgram(s))
	if err != nil {
		return fmt.Errorf("the kernel refused the program that limits devices: %w", err)
	}
	defer func() { _ = unix.Close(prog) }()
	if err := attach(unix.BPF_PROG_ATTACH, target, prog, unix.BPF_F_ALLOW_MULTI); err != nil {
		return fmt.Errorf("cannot attach the program that limits devices to %s: %w", dir, err)
	}
	for _, old := range before {
		if err := attach(unix.BPF_PROG_DETACH, target, old, 0); err != nil {
			return fmt.Errorf("cannot detach an older device program from %s: %w", dir, err)
		}
	}
	return nil
}

// loadProgram is BPF_PROG_LOAD.
func loadProgram(code []byte) (int, error) {
	license := []byte("Apache-2.0\x00")
	attr := struct {
		kind, count       uint32
		code, license     uint64
		logLevel, logSize uint32
		log               uint64
	}{kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(code) / 8)}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&code[0])
	pin.Pin(&license[0])
	attr.code = uint64(uintptr(unsafe.Pointer(&code[0])))
	attr.license = uint64(uintptr(unsafe.Pointer(&license[0])))
	return bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
}

// attach is BPF_PROG_ATTACH and BPF_PROG_DETACH of a device program.
func attach(cmd, target, prog int, flags uint32) error {
	attr := struct{ target, prog, kind, flags uint32 }{uint32(target), uint32(prog), unix.BPF_CGROUP_DEVICE, flags}
	_, err := bpf(cmd, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

// maxPrograms is the most programs the kernel keeps on one cgroup
// (BPF_CGROUP_MAX_PROGS).
const maxPrograms = 64

// attachedPrograms opens the device programs of the cgroup itself. The caller
// closes them.
func attachedPrograms(target int) ([]int, error) {
	ids := make([]uint32, maxPrograms)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&ids[0])
	// Some kernels write revision whatever size they are told.
	query := struct {
		target, kind, flags, attachFlags uint32
		ids                              uint64
		count, _                         uint32
		progFlags, linkIDs, linkFlags    uint64
		revision                         uint64
	}{target: uint32(target), kind: unix.BPF_CGROUP_DEVICE, ids: uint64(uintptr(unsafe.Pointer(&ids[0]))), count: maxPrograms}
	if _, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&query), unsafe.Sizeof(query)); err != nil {
		return nil, fmt.Errorf("cannot list the device programs of the cgroup: %w", err)
	}
	var fds []int
	for _, id := range ids[:min(query.count, maxPrograms)] {
		attr := struct{ id, next, flags uint32 }{id: id}
		fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOENT) {
			// Another's program can only forbid more.
			continue
		}
		if err != nil {
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
			return nil, fmt.Errorf("cannot open device program %d of the cgroup: %w", id, err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// bpfTries bounds how often a call interrupted by a signal is made again.
const bpfTries = 30

func bpf(cmd int, attr unsafe.Pointer, size uintptr) (int, error) {
	for i := 1; ; i++ {
		fd, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
		switch {
		case errno == 0 && fd <= math.MaxInt32:
			return int(fd), nil
		case (errno == unix.EAGAIN || errno == unix.EINTR) && i < bpfTries:
		default:
			return -1, fmt.Errorf("bpf: %w", errno)
		}
	}
}
