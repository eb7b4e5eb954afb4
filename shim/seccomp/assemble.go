package seccomp

import (
	"encoding/binary"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	instructionSize = 8

	// Offsets in struct seccomp_data (include/uapi/linux/seccomp.h).
	offNumber = 0
	offArch   = 4
	offArgs   = 16

	// maxSkip is the longest conditional jump used. The format's limit is
	// 255; two instructions may come between when the targets of one jump
	// are brought near.
	maxSkip = 252

	opLoad = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opRet  = unix.BPF_RET | unix.BPF_K
	opJump = unix.BPF_JMP | unix.BPF_JA
	opJEQ  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opJGT  = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	opJGE  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
)

// target is where a jump goes: a return value, or an instruction already
// emitted.
type target struct {
	isRet bool
	// ret is the value returned.
	ret uint32
	// at is the instruction's place, counted from the program's end from 1.
	at int
}

func returns(ret uint32) target { return target{isRet: true, ret: ret} }

// assembler emits a program backwards, as BPF only jumps forwards: the
// targets of a jump are then always known.
type assembler struct {
	code []unix.SockFilter
	rets []target // one per return value, the latest emitted
}

func (a *assembler) emit(code uint16, k uint32) target {
	a.code = append(a.code, unix.SockFilter{Code: code, K: k})
	return target{at: len(a.code)}
}

// near returns an instruction within a short jump that does what t does.
func (a *assembler) near(t target) target {
	if !t.isRet {
		if len(a.code)-t.at <= maxSkip {
			return t
		}
		return a.emit(opJump, uint32(len(a.code)-t.at))
	}
	for i := range a.rets {
		r := &a.rets[i]
		if r.ret != t.ret {
			continue
		}
		if len(a.code)-r.at > maxSkip {
			r.at = a.emit(opRet, t.ret).at
		}
		return *r
	}
	r := a.emit(opRet, t.ret)
	r.ret = t.ret
	a.rets = append(a.rets, r)
	return r
}

// jump emits a conditional jump.
func (a *assembler) jump(code uint16, k uint32, yes, no target) target {
	yes = a.near(yes)
	no = a.near(no)
	jt, jf := len(a.code)-yes.at, len(a.code)-no.at
	a.code = append(a.code, unix.SockFilter{Code: code, Jt: uint8(jt), Jf: uint8(jf), K: k})
	return target{at: len(a.code)}
}

// begin makes t the very next instruction, so that a load can precede it.
func (a *assembler) begin(t target) {
	if t.isRet {
		a.emit(opRet, t.ret)
	} else if t.at != len(a.code) {
		a.emit(opJump, uint32(len(a.code)-t.at))
	}
}

// load emits a load of a word, followed by t.
func (a *assembler) load(off uint32, t target) target {
	a.begin(t)
	return a.emit(opLoad, off)
}

// cond emits one condition. On a little endian machine the low half of an
// argument comes first.
func (a *assembler) cond(c *cond, wide bool, yes, no target) target {
	switch c.op {
	case opNotEqual, opLess, opLessEqual:
		yes, no = no, yes
	}
	low := offArgs + 8*uint32(c.arg)
	value, mask := c.value&c.mask, c.mask
	code := uint16(opJEQ)
	switch c.op {
	case opGreater, opLessEqual:
		code = opJGT
	case opGreaterEqual, opLess:
		code = opJGE
	}
	t := a.half(code, low, uint32(value), uint32(mask), yes, no)
	if !wide {
		return t
	}
	high, highMask := uint32(value>>32), uint32(mask>>32)
	if code == opJEQ {
		if highMask == 0 {
			return t
		}
		return a.half(opJEQ, low+4, high, highMask, t, no)
	}
	t = a.jump(opJEQ, high, t, no)
	t = a.jump(opJGT, high, yes, t)
	return a.load(low+4, t)
}

func (a *assembler) half(code uint16, off, value, mask uint32, yes, no target) target {
	t := a.jump(code, value, yes, no)
	if mask != ^uint32(0) {
		t = a.emit(opAnd, mask)
	}
	return a.load(off, t)
}

// emitRules emits the rules of a call: the first that matches decides, and no
// two that may both match differ.
func (p *policy) emitRules(a *assembler, i int32, wide bool) target {
	if i < 0 {
		return returns(p.def)
	}
	r := &p.rules[i]
	no := p.emitRules(a, r.next, wide)
	t := returns(r.ret)
	for j := len(r.conds) - 1; j >= 0; j-- {
		t = a.cond(&r.conds[j], wide, t, no)
	}
	return t
}

// emitSpans emits a binary search for the span of the number loaded.
func (p *policy) emitSpans(a *assembler, s []span) target {
	if len(s) == 1 {
		if s[0].slot.kind == slotAlways {
			return returns(s[0].slot.ret)
		}
		return p.emitRules(a, s[0].slot.first, s[0].wide)
	}
	mid := len(s) / 2
	yes := p.emitSpans(a, s[mid:])
	no := p.emitSpans(a, s[:mid])
	return a.jump(opJGE, s[mid].from, yes, no)
}

// assemble returns the filter's instructions in order.
func (p *policy) assemble() ([]byte, error) {
	a := &assembler{code: make([]unix.SockFilter, 0, 1024)}
	next := returns(retBadArch)
	// The native architecture comes last here, so it is asked for first.
	for _, b := range [...]abi{arm, x86, aarch64, x86_64} {
		// x32 is found among x86_64's numbers.
		if !p.abis.has(b) {
			continue
		}
		spans, err := p.spans(b)
		if err != nil {
			return nil, err
		}
		t := a.load(offNumber, p.emitSpans(a, spans))
		next = a.jump(opJEQ, b.audit(), t, next)
	}
	a.load(offArch, next)
	if len(a.code) > maxInstructions {
		return nil, fmt.Errorf("seccomp filter would have %d instructions and the kernel takes %d, use runc: %w", len(a.code), maxInstructions, errdefs.ErrNotImplemented)
	}
	out := make([]byte, 0, len(a.code)*instructionSize)
	for i := len(a.code) - 1; i >= 0; i-- {
		in := &a.code[i]
		out = binary.LittleEndian.AppendUint16(out, in.Code)
		out = append(out, in.Jt, in.Jf)
		out = binary.LittleEndian.AppendUint32(out, in.K)
	}
	return out, nil
}
