package seccomp

import (
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// data is struct seccomp_data without the instruction pointer.
type data struct {
	nr   uint32
	arch uint32
	args [6]uint64
}

func (d data) String() string {
	return fmt.Sprintf("arch %#x nr %#x args %#x", d.arch, d.nr, d.args)
}

// load reads a word as a little endian kernel does.
func (d data) load(off uint32) uint32 {
	switch {
	case off == 0:
		return d.nr
	case off == 4:
		return d.arch
	case off >= 16 && off < 64 && off%8 == 0:
		return uint32(d.args[(off-16)/8])
	case off >= 16 && off < 64 && off%8 == 4:
		return uint32(d.args[(off-16)/8] >> 32)
	}
	panic(fmt.Sprintf("load from offset %d", off))
}

// decode splits a program into instructions.
func decode(filter []byte) []unix.SockFilter {
	out := make([]unix.SockFilter, len(filter)/8)
	for i := range out {
		b := filter[i*8:]
		out[i] = unix.SockFilter{
			Code: binary.LittleEndian.Uint16(b), Jt: b[2], Jf: b[3],
			K: binary.LittleEndian.Uint32(b[4:]),
		}
	}
	return out
}

// interpret runs a filter on one call, and returns the number of
// instructions it took as well.
func interpret(tb testing.TB, prog []unix.SockFilter, d data) (ret uint32, steps int) {
	tb.Helper()
	acc := uint32(0)
	for pc := 0; pc < len(prog); {
		in := prog[pc]
		pc++
		steps++
		jump := func(yes bool) {
			if yes {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case 0x20: // ld [k]
			acc = d.load(in.K)
		case 0x54: // and k
			acc &= in.K
		case 0x05: // ja k
			pc += int(in.K)
		case 0x15: // jeq k
			jump(acc == in.K)
		case 0x25: // jgt k
			jump(acc > in.K)
		case 0x35: // jge k
			jump(acc >= in.K)
		case 0x45: // jset k
			jump(acc&in.K != 0)
		case 0x06: // ret k
			return in.K, steps
		default:
			tb.Fatalf("instruction %d has code %#x", pc-1, in.Code)
		}
	}
	tb.Fatalf("%s runs off the end of %d instructions", d, len(prog))
	return 0, 0
}
