package parity

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"
)

// phrases are what clients of containerd, docker among them, look for in messages of
// runtimes, and the texts of errors of the kernel, which runtimes pass on.
var phrases = []string{
	"executable file not found",
	"exec format error",
	"is a directory",
	"not a directory",
	"no such file or directory",
	"permission denied",
	"operation not permitted",
	"too many levels of symbolic links",
	"file exists",
	"device or resource busy",
	"read-only file system",
	"invalid argument",
	"numerical result out of range",
	"value too large",
	"no space left on device",
	"hook",
	"sysctl",
	"no such process",
	"inside",
}

// cause is the phrase that says why, or "other".
func cause(message string) string {
	message = strings.ToLower(message)
	for _, phrase := range phrases {
		if strings.Contains(message, phrase) {
			return phrase
		}
	}
	return "other"
}

// class is the class of containerd's errors.
func class(err error) string {
	for _, c := range []struct {
		name string
		is   func(error) bool
	}{
		{"not found", errdefs.IsNotFound},
		{"already exists", errdefs.IsAlreadyExists},
		{"invalid argument", errdefs.IsInvalidArgument},
		{"failed precondition", errdefs.IsFailedPrecondition},
		{"not implemented", errdefs.IsNotImplemented},
		{"unavailable", errdefs.IsUnavailable},
		{"permission denied", errdefs.IsPermissionDenied},
		{"deadline exceeded", errdefs.IsDeadlineExceeded},
		{"canceled", func(err error) bool { return errdefs.IsCanceled(err) || err == context.Canceled }},
	} {
		if c.is(err) {
			return c.name
		}
	}
	return "unknown"
}
