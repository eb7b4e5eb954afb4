package fastpath

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
	"github.com/peregrine-dev/peregrine/netplugin/priority"
)

// Priority is what the node does with classes.
type Priority struct {
	On        bool
	Batch     bool // class high waits in a queue of its own, and is not handled at once
	TrustDSCP bool
	HighRate  int // packets in a second, on each core
}

// highBurst is how much of its rate class high may use at once.
const highBurst = 10 * time.Millisecond

// SetPriority says what to do with classes.
func (f *Fastpath) SetPriority(p Priority) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.xdp.priority = p
	f.settings.HighInterval, f.settings.HighBurst = uint64(time.Second)/uint64(max(p.HighRate, 1)), uint64(highBurst)
	err := errors.Join(f.setFlag(bpf.FalconFlagFLAG_BATCH, p.Batch), f.setFlag(bpf.FalconFlagFLAG_DSCP, p.TrustDSCP))
	f.settings.Classes++
	return errors.Join(err, f.write(), f.reclassify())
}

// Classify gives a container's link another policy; flows that are there have it from their
// next packet on. A link that isn't known is no error.
func (f *Fastpath) Classify(link string, p priority.Policy) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.slots[link]
	if s == nil || s.endpoint.Policy.Equal(p) {
		return nil
	}
	s.endpoint.Policy = p
	if err := f.fillPolicy(s); err != nil {
		return err
	}
	if err := put(f.objects.FalconSlots, s.index, s.value); err != nil {
		return err
	}
	return f.reclassify()
}

// fillPolicy puts an endpoint's policy into its slot, which the caller writes, and its rules
// into their map.
func (f *Fastpath) fillPolicy(s *slot) error {
	p := s.endpoint.Policy
	s.value.Class, s.value.Rules, s.value.Reserved = uint8(p.Default), uint8(len(p.Rules)), 0
	if p.Fixed {
		s.value.Reserved = uint8(p.Default) + 1
	}
	if len(p.Rules) == 0 {
		return remove(f.objects.FalconRules, s.index)
	}
	var rules bpf.FalconRules
	for i, r := range p.Rules {
		rules.Rule[i] = ruleOf(r)
	}
	return put(f.objects.FalconRules, s.index, rules)
}

func ruleOf(r priority.Rule) bpf.FalconRule {
	out := bpf.FalconRule{Protocol: uint32(r.Proto), Port: binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, r.Port)), Class: uint16(r.Class)}
	if !r.CIDR.IsValid() {
		return out
	}
	bits := r.CIDR.Bits()
	if r.CIDR.Addr().Is4() {
		bits += 96 // the programs have it mapped into IPv6
	}
	var mask [16]byte
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	out.Cidr, out.Mask = addressOf(r.CIDR.Addr()), rawAddress(netip.AddrFrom16(mask))
	return out
}

// reclassify has flows look for their class again, and switches XDP on or off: it costs
// each packet something, and nothing goes first where nobody asked for class high.
func (f *Fastpath) reclassify() error {
	wanted := false
	for _, s := range f.slots {
		wanted = wanted || asksForHigh(s.endpoint.Policy)
	}
	wanted = f.xdp.priority.On && (wanted || f.xdp.priority.TrustDSCP)
	f.settings.Classes++
	f.settings.Flags &^= bpf.FalconFlagFLAG_PRIORITY
	if wanted {
		f.settings.Flags |= bpf.FalconFlagFLAG_PRIORITY
	}
	err := f.write()
	_ = f.attachXDP() // why not is told by XDP, and Sync tries again
	return err
}

func asksForHigh(p priority.Policy) bool {
	if p.Default == priority.High {
		return true
	}
	for _, r := range p.Rules {
		if r.Class == priority.High && !p.Fixed {
			return true
		}
	}
	return false
}
