package claim

// Protocol is the form in which a containerd wants the answer of `start`.
type Protocol int

const (
	// Address is the bare address, of containerd 1.6 and older.
	Address Protocol = iota
	// JSON is containerd 1.7's to 2.2's. Of these only the task API of version 2 is known to
	// be there: 1.7 refuses an answer that says 3.
	JSON
	// Bootstrap is a protobuf message, of containerd 2.3 and newer.
	Bootstrap
)

// Detect tells which containerd calls, and what it says, from the standard input of
// `start`, the id and namespace on the command line, and whether the environment has
// MAX_SHIM_VERSION, which 1.7 introduced. Parameters are those of an older containerd's
// command line, of which Params has ID and Namespace, unless the protocol is Bootstrap.
func Detect(stdin []byte, id, namespace string, maxVersion bool) (Protocol, Params) {
	p, ok := ParseParams(stdin)
	// The options of a runtime, which older versions write, have a type URL where the
	// parameters have the ID.
	if ok && len(stdin) > 0 && p.ID == id && p.Namespace == namespace {
		return Bootstrap, p
	}
	p = Params{ID: id, Namespace: namespace}
	if maxVersion {
		return JSON, p
	}
	return Address, p
}

// Answer is what `start` prints for the address of a ttrpc server.
func Answer(p Protocol, address string) []byte {
	switch p {
	case Bootstrap:
		return bootstrapResult(address)
	case JSON:
		b := append([]byte(nil), `{"version":2,"address":`...)
		return append(appendString(b, address), `,"protocol":"ttrpc"}`...)
	default:
		return []byte(address)
	}
}
