// Package priority says which class the packets of a container are of, after PRISM (ICDCS'22):
// high overtakes normal and low on their way to a container, and low waits when others want
// the core. What decides is [Policy.Of]; the programs in the kernel compute the same, and it
// is what they are tested against.
package priority

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// Class is the class of a flow. Its numbers are those in the kernel's maps.
type Class uint8

// Normal is the class of whom nobody said anything about.
const (
	Normal Class = iota
	High
	Low
)

var classes = [...]string{Normal: "normal", High: "high", Low: "low"}

// String is the class's name.
func (c Class) String() string {
	if int(c) < len(classes) {
		return classes[c]
	}
	return fmt.Sprintf("class %d", uint8(c))
}

// MarshalText implements encoding.TextMarshaler. It fails for a number that is no class.
func (c Class) MarshalText() ([]byte, error) {
	if int(c) >= len(classes) {
		return nil, fmt.Errorf("%s is unknown: %w", c, errdefs.ErrInvalidArgument)
	}
	return []byte(classes[c]), nil
}

// UnmarshalText reads high, normal or low.
func (c *Class) UnmarshalText(text []byte) error {
	got, err := Parse(string(text))
	if err == nil {
		*c = got
	}
	return err
}

// Parse reads a class by its name; errdefs.ErrInvalidArgument for any other.
func Parse(name string) (Class, error) {
	for c, known := range classes {
		if name == known {
			return Class(c), nil
		}
	}
	return Normal, fmt.Errorf("the class %.40q is unknown, use high, normal or low: %w", name, errdefs.ErrInvalidArgument)
}

// OfDSCP is the class that a packet asks for by its DSCP, 6 bits, if it asks for one: high
// what is for voice, telephony and control of the network (RFC 4594 section 2.3, RFC 5865),
// low what is to use only what others leave (RFC 3662, RFC 8622).
func OfDSCP(dscp uint8) (c Class, asks bool) {
	switch dscp {
	case 40, 48, 56, // CS5, CS6, CS7
		44, 46: // VA, EF
		return High, true
	case 8, 1: // CS1, LE
		return Low, true
	}
	return Normal, false
}
