package claim

// The messages here are in protocol buffers' wire format,
// https://protobuf.dev/programming-guides/encoding. The generated code would double the
// time the program takes to start.

// Params is what containerd 2.3 and newer writes to the standard input of `start`: the
// part of containerd.runtime.bootstrap.v1.BootstrapParams that a claim needs.
type Params struct {
	ID                string
	Namespace         string
	LogLevel          int32 // 0 is info; debug is -4, trace -8
	ContainerdVersion string
	TTRPCAddress      string
	GRPCAddress       string
	Binary            string // containerd's own executable
}

// Wire types.
const (
	varint  = 0
	fixed64 = 1
	bytes   = 2
	fixed32 = 5
)

// ParseParams reads BootstrapParams. Unknown fields are skipped; of a field that comes
// twice the last counts. It reports false for what is no such message. An older
// containerd's runtime options, a google.protobuf.Any, may well parse: the caller compares
// ID with the one on the command line, as stock shims do.
func ParseParams(b []byte) (Params, bool) {
	var p Params
	for len(b) > 0 {
		tag, n := uvarint(b)
		if n == 0 || tag>>3 == 0 || tag>>3 > 1<<29-1 {
			return Params{}, false
		}
		b = b[n:]
		var (
			value uint64
			text  []byte
		)
		switch tag & 7 {
		case varint:
			if value, n = uvarint(b); n == 0 {
				return Params{}, false
			}
			b = b[n:]
		case bytes:
			size, n := uvarint(b)
			if n == 0 || size > uint64(len(b)-n) {
				return Params{}, false
			}
			text, b = b[n:n+int(size)], b[n+int(size):]
		case fixed64, fixed32:
			size := 8
			if tag&7 == fixed32 {
				size = 4
			}
			if len(b) < size {
				return Params{}, false
			}
			b = b[size:]
		default: // groups ended with proto2
			return Params{}, false
		}
		switch tag {
		case 1<<3 | bytes:
			p.ID = string(text)
		case 2<<3 | bytes:
			p.Namespace = string(text)
		case 3<<3 | varint:
			p.LogLevel = int32(value)
		case 4<<3 | bytes:
			p.ContainerdVersion = string(text)
		case 5<<3 | bytes:
			p.TTRPCAddress = string(text)
		case 6<<3 | bytes:
			p.GRPCAddress = string(text)
		case 7<<3 | bytes:
			p.Binary = string(text)
		}
	}
	return p, true
}

// uvarint reads a base-128 number of at most 64 bits and returns its length, 0 for none.
func uvarint(b []byte) (v uint64, n int) {
	for i := 0; i < len(b) && i < 10; i++ {
		if i == 9 && b[i] > 1 {
			return 0, 0
		}
		v |= uint64(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}

func appendUvarint(b []byte, v uint64) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

func appendBytes(b []byte, field uint64, s string) []byte {
	b = appendUvarint(b, field<<3|bytes)
	b = appendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendNumber(b []byte, field, v uint64) []byte {
	return appendUvarint(appendUvarint(b, field<<3|varint), v)
}

// mountCapabilities is an Extension with an Any with an empty
// containerd.types.MountCapabilities: the shim does none of the mounts that are beyond
// mount(2). Without it, containerd would execute `-info` to ask.
const mountCapabilities = "\x0a\x38\x0a\x36type.googleapis.com/containerd.types.MountCapabilities"

// bootstrapResult is a containerd.runtime.bootstrap.v1.BootstrapResult.
func bootstrapResult(address string) []byte {
	b := appendNumber(make([]byte, 0, 192), 1, 3)
	b = appendBytes(b, 2, address)
	b = appendBytes(b, 3, "ttrpc")
	return appendBytes(b, 6, mountCapabilities)
}

// DeleteResponse is the answer of `delete`: a containerd.task.v3.DeleteResponse, the same
// as v2's, with the time in seconds and nanoseconds of the Unix epoch. The exit status
// counts only where no shim told containerd another one.
func DeleteResponse(status uint32, sec int64, nsec int32) []byte {
	at := appendNumber(nil, 1, uint64(sec))
	if nsec != 0 {
		at = appendNumber(at, 2, uint64(nsec))
	}
	var b []byte
	if status != 0 {
		b = appendNumber(b, 2, uint64(status))
	}
	return appendBytes(b, 3, string(at))
}
