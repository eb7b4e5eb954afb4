package endpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	suffix = ".json"
	draft  = ".new-" // prefix of files that aren't complete
)

// Store is a directory of records. Any number of goroutines may use it at the same time:
// each call sees and leaves whole records. One process at a time opens it.
type Store struct{ dir string }

// Open makes the directory, for its owner only (mode 0700), and removes what a killed
// process did not complete.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of endpoints: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of endpoints: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("directory of endpoints: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), draft) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("remove an unfinished endpoint: %w", err)
			}
		}
	}
	return &Store{dir: dir}, nil
}

// Put writes a record, over the one of the same attachment if there is one.
// errdefs.ErrInvalidArgument: the ID or the interface's name isn't one that CNI allows.
func (s *Store) Put(r Record) error {
	data, err := encode(r)
	if err != nil {
		return fmt.Errorf("endpoint: %w", err)
	}
	path := filepath.Join(s.dir, fileName(r.ContainerID, r.IfName))
	// Another process that opens the store takes the draft for a dead one's.
	for range 3 {
		if err = s.write(path, data); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("write the endpoint of container %s, interface %s: %w", r.ContainerID, r.IfName, err)
	}
	return nil
}

func (s *Store) write(path string, data []byte) error {
	f, err := os.CreateTemp(s.dir, draft+"*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// Get reads the record of an attachment; errdefs.ErrNotFound if there is none.
func (s *Store) Get(containerID, ifname string) (Record, error) {
	if err := identified(containerID, ifname); err != nil {
		return Record{}, fmt.Errorf("endpoint: %w", err)
	}
	r, err := s.read(fileName(containerID, ifname))
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, fmt.Errorf("container %s, interface %s has no endpoint here: %w", containerID, ifname, errdefs.ErrNotFound)
	}
	return r, err
}

func (s *Store) read(name string) (Record, error) {
	path := filepath.Join(s.dir, name)
	data, err := os.ReadFile(path)
	if err != nil {
		return Record{}, fmt.Errorf("read an endpoint: %w", err)
	}
	r, err := decode(name, data)
	if err != nil {
		return Record{}, fmt.Errorf("endpoint %s is damaged: %w", path, err)
	}
	return r, nil
}

// Delete removes the record of an attachment. None is no error.
func (s *Store) Delete(containerID, ifname string) error {
	if err := identified(containerID, ifname); err != nil {
		return fmt.Errorf("endpoint: %w", err)
	}
	if err := os.Remove(filepath.Join(s.dir, fileName(containerID, ifname))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete an endpoint: %w", err)
	}
	return nil
}

// List reads all records, in the order of their files' names. Files that can't be read
// are in bad, by name, and left for the operator: they hold up nothing.
func (s *Store) List() (records []Record, bad map[string]error, err error) { return List(s.dir) }

// List is [Store.List] of a directory that another process has open.
func List(dir string) (records []Record, bad map[string]error, err error) {
	s := &Store{dir}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("list endpoints: %w", err)
	}
	bad = map[string]error{}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		r, err := s.read(e.Name())
		switch {
		case errors.Is(err, fs.ErrNotExist): // deleted meanwhile
		case err != nil:
			bad[e.Name()] = err
		default:
			records = append(records, r)
		}
	}
	return records, bad, nil
}
