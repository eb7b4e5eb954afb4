package seccomp

import (
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	retAllow = unix.SECCOMP_RET_ALLOW
	// retBadArch is libseccomp's action for calls of an architecture that a
	// filter doesn't cover.
	retBadArch = unix.SECCOMP_RET_KILL_THREAD
)

// span is what a filter does from a call number on, up to the next span.
type span struct {
	from uint32
	slot slot
	// wide says how the slot's rules compare.
	wide bool
}

// stub says whether calls newer than the profile get ENOSYS for an ABI, as
// runc does it (libcontainer/seccomp/patchbpf): only for those the section
// lists, and not when it names only number 0 or nothing.
func (p *policy) stub(a abi) bool {
	if permissive(p.def) || !p.abis.listed[a] {
		return false
	}
	return p.last[a] > 0 || a == x32 && p.last[a] == 0
}

// spans covers all 32-bit numbers of the calls that share an audit value.
func (p *policy) spans(a abi) ([]span, error) {
	out := make([]span, 0, 256)
	out, err := p.appendSpans(out, a, 0)
	if err != nil || a != x86_64 {
		return out, err
	}
	always := func(from, ret uint32) {
		out = appendSpan(out, span{from: from, slot: slot{kind: slotAlways, ret: ret}})
	}
	other := p.def
	if !p.abis.listed[x32] {
		other = retBadArch
		always(x32Bit, other)
	} else {
		if p.abis.listed[x86_64] && p.stub(x86_64) != p.stub(x32) && !permissive(p.def) {
			return nil, fmt.Errorf("seccomp rules name no call of one of x86_64 and x32, use runc: %w", errdefs.ErrNotImplemented)
		}
		if out, err = p.appendSpans(out, x32, x32Bit); err != nil {
			return nil, err
		}
	}
	// No call has these numbers. Where runc's stub looks, only the bit says
	// which ABI is meant; the filter itself takes all of them as x32's.
	if p.stub(x86_64) {
		always(2*x32Bit, retENOSYS)
	} else {
		always(2*x32Bit, other)
	}
	if p.stub(x32) {
		always(3*x32Bit, retENOSYS)
	} else {
		always(3*x32Bit, other)
	}
	if !p.abis.listed[x32] {
		// -1 isn't an x32 call: it is what a tracer sets to skip one.
		always(^uint32(0), p.def)
	}
	return out, nil
}

func (p *policy) appendSpans(out []span, a abi, base uint32) ([]span, error) {
	def := slot{kind: slotAlways, ret: p.def}
	next := base
	for i := range p.slots[a] {
		s := &p.slots[a][i]
		if s.kind == slotDefault {
			continue
		}
		if s.kind == slotRules {
			if err := p.check(s, a.wide()); err != nil {
				return nil, err
			}
		}
		nr := base + numberOf(int32(i))
		if nr > next {
			out = appendSpan(out, span{from: next, slot: def})
		}
		out = appendSpan(out, span{from: nr, slot: *s, wide: a.wide()})
		next = nr + 1
	}
	out = appendSpan(out, span{from: next, slot: def})
	if p.stub(a) {
		// runc asks this before the filter, so it hides what follows: the
		// direct forms of calls multiplexed on x86 don't count for last.
		from := base + uint32(p.last[a]) + 1
		for len(out) > 0 && out[len(out)-1].from >= from {
			out = out[:len(out)-1]
		}
		out = appendSpan(out, span{from: from, slot: slot{kind: slotAlways, ret: retENOSYS}})
	}
	return out, nil
}

// appendSpan joins spans that always return the same, and lets a span that
// begins where the last one did replace it.
func appendSpan(out []span, s span) []span {
	if n := len(out); n > 0 && out[n-1].from == s.from {
		out = out[:n-1]
	}
	if n := len(out); n > 0 && s.slot.kind == slotAlways && out[n-1].slot.kind == slotAlways && out[n-1].slot.ret == s.slot.ret {
		return out
	}
	return append(out, s)
}
