package model

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// format names a record's first line.
const format = "plasma-record"

// maxLine bounds a line of a record: a snapshot and its plan, in bytes.
const maxLine = 512 << 20

// Header is a record's first line: what was planned by.
type Header struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Policy  string `json:"policy"`          // its text
	Paper   bool   `json:"paper,omitempty"` // it is in the paper's language
}

// Step is a line of a record: what was known, the memory of the plan before, and what was
// decided.
type Step struct {
	Snapshot Snapshot `json:"snapshot"`
	Before   Memory   `json:"before"`
	Plan     Plan     `json:"plan"`
}

// Recorder writes a record, a line of JSON for each step. It is not for several goroutines.
type Recorder struct {
	to  *bufio.Writer
	enc *json.Encoder
}

// NewRecorder begins a record. Close ends it; the writer is the caller's to close.
func NewRecorder(w io.Writer, policy string, paper bool) (*Recorder, error) {
	to := bufio.NewWriter(w)
	r := &Recorder{to, json.NewEncoder(to)}
	return r, r.enc.Encode(Header{format, Version, policy, paper})
}

// Write adds a step.
func (r *Recorder) Write(s *Step) error { return r.enc.Encode(s) }

// Close writes what is still in memory.
func (r *Recorder) Close() error { return r.to.Flush() }

// Replay reads a record. Errors of what it says are errdefs' ErrInvalidArgument.
type Replay struct {
	Header Header
	from   *bufio.Scanner
	line   int
}

// NewReplay reads a record's first line.
func NewReplay(r io.Reader) (*Replay, error) {
	p := &Replay{from: bufio.NewScanner(r)}
	p.from.Buffer(nil, maxLine)
	if !p.from.Scan() {
		if err := p.from.Err(); err != nil {
			return nil, p.broken(err)
		}
		return nil, p.broken(errors.New("it is empty"))
	}
	p.line++
	if err := json.Unmarshal(p.from.Bytes(), &p.Header); err != nil {
		return nil, p.broken(err)
	}
	if p.Header.Format != format || p.Header.Version != Version {
		return nil, p.broken(fmt.Errorf("its format is %q, version %d: want %s, version %d", p.Header.Format, p.Header.Version, format, Version))
	}
	return p, nil
}

// Next reads the next step, which is valid. io.EOF is the end.
func (p *Replay) Next() (*Step, error) {
	if !p.from.Scan() {
		if err := p.from.Err(); err != nil {
			return nil, p.broken(err)
		}
		return nil, io.EOF
	}
	p.line++
	s := new(Step)
	if err := json.Unmarshal(p.from.Bytes(), s); err != nil {
		return nil, p.broken(err)
	}
	if err := s.Snapshot.Validate(); err != nil {
		return nil, p.broken(err)
	}
	return s, nil
}

func (p *Replay) broken(err error) error {
	return fmt.Errorf("line %d of the record: %w: %w", max(p.line, 1), err, errdefs.ErrInvalidArgument)
}
