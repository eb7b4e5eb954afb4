// Package oci reads a bundle's config.json and decides, without touching the kernel,
// what its container needs of a cube. What isn't surely understood is an error of class
// ErrNotImplemented: the container then runs under the fall-back, which knows more.
package oci

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Unsupported is why a container or process can't be run natively. Reason is a short
// name to count by.
type Unsupported struct{ Reason string }

func (u Unsupported) Error() string { return "not run natively: " + u.Reason }

// Unwrap makes it an errdefs.ErrNotImplemented.
func (u Unsupported) Unwrap() error { return errdefs.ErrNotImplemented }

func unsupported(format string, args ...any) error {
	return Unsupported{fmt.Sprintf(format, args...)}
}

// Decode reads a spec. A field that this program doesn't know is Unsupported: to ignore
// it could confine less than was asked.
func Decode(text []byte) (*specs.Spec, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var s specs.Spec
	if err := d.Decode(&s); err != nil {
		return nil, unsupported("spec")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, unsupported("spec")
	}
	return &s, nil
}

// DecodeProcess reads the process of an exec, as strictly.
func DecodeProcess(text []byte) (*specs.Process, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var p specs.Process
	if err := d.Decode(&p); err != nil {
		return nil, fmt.Errorf("decode the process: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("decode the process: something follows it: %w", errdefs.ErrInvalidArgument)
	}
	return &p, nil
}
