package claim

// Error is a step of the protocol that failed. Err is most often a syscall.Errno, which
// [errors.Is] compares with the errors of io/fs.
type Error struct {
	Op   string // what was tried, as an infinitive: "rename"
	Path string // the file it was tried on
	Err  error
}

// Error says what failed, on what and why.
func (e *Error) Error() string { return e.Op + " " + e.Path + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func failed(op, path string, err error) error { return &Error{op, path, err} }
