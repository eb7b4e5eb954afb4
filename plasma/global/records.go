package global

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/peregrine-dev/peregrine/plasma/model"
)

// maxRecord is how long a record becomes before another is begun, in bytes. The one before is
// kept.
const maxRecord = 64 << 20

// records writes down what was planned, so that it can be replayed with plasmactl.
type records struct {
	file   string
	policy string
	f      *os.File
	to     *model.Recorder
}

// newRecords continues a service's records in a directory; with none, nothing is recorded.
func newRecords(dir, service, policy string) (*records, error) {
	if dir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("records of plans: %w", err)
	}
	r := &records{file: filepath.Join(dir, service+".jsonl"), policy: policy}
	return r, r.begin()
}

// begin begins a record; the one that was there is kept beside it.
func (r *records) begin() error {
	if err := os.Rename(r.file, r.file+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(r.file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("records of plans: %w", err)
	}
	if r.to, err = model.NewRecorder(f, r.policy, false); err != nil {
		return errors.Join(err, f.Close())
	}
	r.f = f
	return nil
}

// write adds a step.
func (r *records) write(s *model.Step) error {
	if fi, err := r.f.Stat(); err == nil && fi.Size() > maxRecord {
		r.close()
		if err := r.begin(); err != nil {
			return err
		}
	}
	return errors.Join(r.to.Write(s), r.to.Close())
}

func (r *records) close() { _ = r.f.Close() }
