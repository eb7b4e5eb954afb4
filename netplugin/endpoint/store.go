package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	suffix   = ".json"
	draft    = ".new-" // prefix of files that aren't complete
	lockFile = "lock"

	// lockInterval is how often a lock that another has is tried: flock(2) knows no
	// waiting that ends with a context.
	lockInterval = 2 * time.Millisecond
)

// Store is a directory of records. Any number of goroutines and of processes may use one
// directory at the same time: each call sees and leaves whole records. Who reads, decides
// and writes takes Lock around it.
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
func (s *Store) List() (records []Record, bad map[string]error, err error) {
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

// Lock takes the store's lock, which one holder has at a time, in whatever process, and
// which ends with its process. Call unlock once. Get, Put and the others don't need the
// lock for themselves.
func (s *Store) Lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the endpoints: %w", err)
	}
	again := time.NewTicker(lockInterval)
	defer again.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for %s, which another agent or plugin has: %w", f.Name(), ctx.Err())
		}
	}
}
