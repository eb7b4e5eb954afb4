package seccomp

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// rule is a conjunction of conditions and what to return when all hold.
type rule struct {
	conds []cond
	ret   uint32
	// next is the index of the slot's following rule, or -1.
	next int32
}

type slotKind uint8

const (
	slotDefault slotKind = iota
	slotAlways
	slotRules
)

// slot is what a filter does with one call.
type slot struct {
	kind slotKind
	// ret is returned by a slotAlways.
	ret uint32
	// first and last index the rules of a slotRules.
	first, last int32
}

const (
	// armPrivate is where arm's own calls begin
	// (arch/arm/include/uapi/asm/unistd.h, __ARM_NR_BASE).
	armPrivate = 0x0f0000
	// numSlots bounds the ordinary numbers (x32's own end at 547); arm's
	// private ones follow.
	numOrdinary = 600
	numSlots    = numOrdinary + 16
)

func slotOf(nr int32) int32 {
	if nr >= armPrivate {
		return numOrdinary + nr - armPrivate
	}
	return nr
}

func numberOf(slot int32) uint32 {
	if slot >= numOrdinary {
		return uint32(slot - numOrdinary + armPrivate)
	}
	return uint32(slot)
}

// policy is a section resolved for every ABI it covers.
type policy struct {
	abis  abis
	def   uint32
	rules []rule
	slots [numArches][numSlots]slot
	// last is the largest call named by the section, whatever its action, or
	// noCall: larger ones are newer than the profile.
	last [numArches]int32
}

// add takes one entry of the section, in the order given, with the same
// result as runc and libseccomp: the first rule without conditions decides a
// call alone, else each rule with conditions adds to the others.
func (p *policy) add(call *specs.LinuxSyscall) error {
	ret, err := parseAction(call.Action, call.ErrnoRet)
	if err != nil {
		return err
	}
	conds, split, err := parseArgs(call.Args, p.abis.narrow())
	if err != nil {
		return err
	}
	for _, name := range call.Names {
		if err := p.addName(name, ret, conds, split); err != nil {
			return fmt.Errorf("seccomp rule for %q: %w", name, err)
		}
		// The filter would hardly fit, and check compares rules in pairs.
		if len(p.rules) > maxInstructions {
			return fmt.Errorf("seccomp section has more than %d rules with conditions, use runc: %w", maxInstructions, errdefs.ErrNotImplemented)
		}
	}
	return nil
}

func (p *policy) addName(name string, ret uint32, conds []cond, split bool) error {
	if name == "" {
		return fmt.Errorf("a system call has no name, correct the profile: %w", errdefs.ErrInvalidArgument)
	}
	c := lookup(name)
	if c == nil {
		// Where everything is denied, nothing is lost by ignoring a name. But
		// a denied call of unknown number would silently be allowed.
		if permissive(p.def) && ret != p.def && ret != retAllow {
			return fmt.Errorf("unknown system call must not be allowed by default, use runc: %w", errdefs.ErrNotImplemented)
		}
		return nil
	}
	for a := range numArches {
		if !p.abis.has(a) {
			continue
		}
		if nr := c.nr[a]; nr > p.last[a] && (a != x86 || c.mux == 0) {
			// The multiplexed calls have negative numbers in libseccomp, so
			// runc doesn't see their direct forms.
			p.last[a] = nr
		}
		// A rule that repeats the default is no rule: it doesn't get in the
		// way of later ones.
		if ret == p.def {
			continue
		}
		if !split {
			if err := p.insert(a, c, ret, conds); err != nil {
				return err
			}
			continue
		}
		for i := range conds {
			if err := p.insert(a, c, ret, conds[i:i+1:i+1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// insert adds a rule for one ABI, on x86 also for the call that multiplexes
// it. There the first argument is the selector and the others are behind a
// pointer: libseccomp replaces a condition on the first, so that the rule
// takes all of these calls.
func (p *policy) insert(a abi, c *syscall, ret uint32, conds []cond) error {
	if a == x86 && c.mux != 0 {
		for i := range conds {
			if conds[i].arg != 0 {
				return fmt.Errorf("arguments of a call multiplexed on x86 can't be compared, use runc: %w", errdefs.ErrNotImplemented)
			}
		}
		nr, selector := c.muxed()
		p.insertNumber(a, nr, ret, []cond{{op: opEqual, value: selector, mask: ^uint64(0)}})
	}
	if nr := c.nr[a]; nr != noCall {
		p.insertNumber(a, nr, ret, conds)
	}
	return nil
}

func (p *policy) insertNumber(a abi, nr int32, ret uint32, conds []cond) {
	s := &p.slots[a][slotOf(nr)]
	switch {
	case s.kind == slotAlways:
	case len(conds) == 0:
		*s = slot{kind: slotAlways, ret: ret}
	default:
		i := int32(len(p.rules))
		p.rules = append(p.rules, rule{conds: conds, ret: ret, next: -1})
		if s.kind == slotRules {
			p.rules[s.last].next = i
		} else {
			s.kind, s.first = slotRules, i
		}
		s.last = i
	}
}

// check refuses calls whose rules contradict each other: which of them
// libseccomp prefers follows from the shape of its tree, not from the
// section.
func (p *policy) check(s *slot, wide bool) error {
	for i := s.first; i >= 0; i = p.rules[i].next {
		for j := p.rules[i].next; j >= 0; j = p.rules[j].next {
			if p.rules[i].ret != p.rules[j].ret && !disjoint(p.rules[i].conds, p.rules[j].conds, wide) {
				return fmt.Errorf("seccomp rules of one system call overlap with different actions, use runc: %w", errdefs.ErrNotImplemented)
			}
			a, b := p.rules[i].conds, p.rules[j].conds
			if !(plain(a) && plain(b)) && !apart(a, b) {
				return fmt.Errorf("seccomp rules of one system call compare its arguments by order, use runc: %w", errdefs.ErrNotImplemented)
			}
		}
	}
	return nil
}

// plain is whether conditions are of equality only. libseccomp 2.5 gets some unions of
// others wrong, and its filter may deny what the section allows.
func plain(conds []cond) bool {
	return !slices.ContainsFunc(conds, func(c cond) bool { return c.op != opEqual && c.op != opMasked })
}

// apart is whether two rules have one condition each, on the same argument, by which
// they can't both match: such unions libseccomp gets right.
func apart(a, b []cond) bool {
	if len(a) != 1 || len(b) != 1 || a[0].arg != b[0].arg {
		return false
	}
	aLow, aHigh, aOK := a[0].interval()
	bLow, bHigh, bOK := b[0].interval()
	return aOK && bOK && (aHigh < bLow || bHigh < aLow)
}

// interval is from where to where a condition holds; ok is false if it isn't one
// interval, or empty.
func (c cond) interval() (low, high uint64, ok bool) {
	const most = ^uint64(0)
	switch c.op {
	case opEqual:
		return c.value, c.value, true
	case opLess:
		return 0, c.value - 1, c.value > 0
	case opLessEqual:
		return 0, c.value, true
	case opGreater:
		return c.value + 1, most, c.value < most
	case opGreaterEqual:
		return c.value, most, true
	}
	return 0, 0, false
}

// disjoint says whether no call can match both, as far as different values
// of one argument show.
func disjoint(a, b []cond, wide bool) bool {
	for i := range a {
		for j := range b {
			if a[i].arg != b[j].arg || a[i].op != opEqual || b[j].op != opEqual {
				continue
			}
			if diff := a[i].value ^ b[j].value; wide && diff != 0 || uint32(diff) != 0 {
				return true
			}
		}
	}
	return false
}

// parseArgs reads the conditions of an entry. split says that runc makes a
// rule of each: it does so when two are about the same argument.
func parseArgs(args []specs.LinuxSeccompArg, narrow bool) (conds []cond, split bool, err error) {
	if len(args) == 0 {
		return nil, false, nil
	}
	conds = make([]cond, len(args))
	seen := [maxArgs]bool{}
	for i := range args {
		c, err := parseArg(&args[i], narrow)
		if err != nil {
			return nil, false, err
		}
		split = split || seen[c.arg]
		seen[c.arg] = true
		conds[i] = c
	}
	return conds, split, nil
}
