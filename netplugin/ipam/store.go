package ipam

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

const (
	// dataDirectory is the stock plugin's, for a configuration without ipam.dataDir.
	dataDirectory = "/var/lib/cni/networks"

	lockFile      = "lock"
	lastIPPrefix  = "last_reserved_ip."
	lineBreak     = "\r\n"
	ownerMaxBytes = 4096 // of a container's ID and interface
)

// store is the stock plugin's directory of one network: a file for each address, named
// by it, with the container's ID, "\r\n" and the interface's name (old versions left the
// interface out); last_reserved_ip.N for each set of ranges; and lock, for flock(2).
//
// It does what the stock store (plugins/ipam/host-local/backend/disk) does, and differs
// in this: the lock is held from opening to closing, so the files are read once and not
// for each set of ranges, and not at all where the caller knows what is in them; and a
// reservation is complete from when it has a name, where the stock plugin, killed between
// making and writing it, leaves an empty file that no DEL knows for its own. So may a power
// failure, whoever wrote it. Both have the lock from making to writing, so an empty file
// that is seen under the lock is nobody's, and is removed.
type store struct {
	dir    string
	lock   *os.File
	owners map[string]string // what each address' file says, by the file's name; nil before that is read
}

func (c conf) storeDir() string { return filepath.Join(cmp.Or(c.IPAM.DataDir, dataDirectory), c.Name) }

// hasStore tells whether there is anything of the network; if in doubt, there is.
func (c conf) hasStore() bool {
	_, err := os.Stat(c.storeDir())
	return !errors.Is(err, fs.ErrNotExist)
}

// openStore makes the directory if it isn't there, and waits for the lock as long as it
// takes. Close the store after use.
func openStore(c conf) (*store, error) {
	dir := c.storeDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return &store{dir: dir, lock: lock}, nil
}

// openStoreWhole also reads whose the addresses are.
func openStoreWhole(c conf) (*store, error) {
	s, err := openStore(c)
	if err != nil {
		return nil, err
	}
	if s.owners, err = readOwners(s.dir); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close gives the lock back.
func (s *store) Close() error { return s.lock.Close() }

// Lock is for the allocator; the store has the lock all the time.
func (s *store) Lock() error { return nil }

// Unlock is Lock's.
func (s *store) Unlock() error { return nil }

// readOwners reads all addresses' files, and removes the empty ones. There may be
// hundreds, so it spares them all that os.ReadFile does besides.
func readOwners(dir string) (map[string]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	owners := make(map[string]string, len(names))
	buffer := make([]byte, ownerMaxBytes)
	for _, name := range names {
		if net.ParseIP(name) == nil {
			continue // the lock and the last ones reserved
		}
		fd, err := unix.Openat(int(d.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: filepath.Join(dir, name), Err: err}
		}
		n, err := unix.Read(fd, buffer)
		unix.Close(fd)
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: filepath.Join(dir, name), Err: err}
		}
		if n == 0 {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				return nil, err
			}
			continue
		}
		owners[name] = strings.TrimSpace(string(buffer[:n]))
	}
	return owners, nil
}

func owner(id, ifname string) string { return strings.TrimSpace(id) + lineBreak + ifname }

// Reserve writes the file of an address, unless it is there: then it reports false.
func (s *store) Reserve(id, ifname string, ip net.IP, rangeID string) (bool, error) {
	if _, taken := s.owners[ip.String()]; taken {
		return false, nil
	}
	made, err := newFile(s.dir, ip.String(), owner(id, ifname))
	if err == nil && !made && s.removeEmpty(ip.String()) {
		made, err = newFile(s.dir, ip.String(), owner(id, ifname))
	}
	if err != nil || !made {
		return false, err
	}
	if s.owners != nil {
		s.owners[ip.String()] = owner(id, ifname)
	}
	return true, s.setLastReservedIP(ip, rangeID)
}

// removeEmpty removes an address' file that says nothing, and tells whether it did.
func (s *store) removeEmpty(name string) bool {
	file := filepath.Join(s.dir, name)
	info, err := os.Lstat(file)
	return err == nil && info.Mode().IsRegular() && info.Size() == 0 && os.Remove(file) == nil
}

// setLastReservedIP overwrites, as to truncate the file first makes some filesystems
// write it to the disk at once. What a kill leaves half done is a worse place to go on.
func (s *store) setLastReservedIP(ip net.IP, rangeID string) error {
	f, err := os.OpenFile(filepath.Join(s.dir, lastIPPrefix+rangeID), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := f.WriteString(ip.String())
	if err != nil {
		return err
	}
	return f.Truncate(int64(n))
}

// LastReservedIP is where the allocator goes on; nil if there is none.
func (s *store) LastReservedIP(rangeID string) (net.IP, error) {
	last, err := os.ReadFile(filepath.Join(s.dir, lastIPPrefix+rangeID))
	if err != nil {
		return nil, err
	}
	return net.ParseIP(string(last)), nil
}

// GetByID is the interface's addresses, and those of the container that old versions noted.
func (s *store) GetByID(id, ifname string) (ips []net.IP) {
	for name, has := range s.owners {
		if has == owner(id, ifname) || has == strings.TrimSpace(id) {
			ips = append(ips, net.ParseIP(name))
		}
	}
	return ips
}

// releaseKnown deletes the files of an interface's addresses, as far as they are its.
func (s *store) releaseKnown(id, ifname string, addresses []netip.Addr) error {
	for _, a := range addresses {
		file := filepath.Join(s.dir, a.Unmap().String())
		has, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(has)) == owner(id, ifname) {
			err = os.Remove(file)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// ReleaseByID deletes the files of the interface's addresses. If there are none it
// deletes the container's that old versions noted. What can't be deleted stays, and is
// no error.
func (s *store) ReleaseByID(id, ifname string) error {
	if !s.release(owner(id, ifname)) {
		s.release(strings.TrimSpace(id))
	}
	return nil
}

func (s *store) release(of string) (found bool) {
	for name, has := range s.owners {
		if has == of && os.Remove(filepath.Join(s.dir, name)) == nil {
			delete(s.owners, name)
			found = true
		}
	}
	return found
}

// keep deletes the files of all addresses but those of the valid attachments.
func (s *store) keep(valid []types.GCAttachment) error {
	owners := map[string]bool{}
	for _, a := range valid {
		owners[owner(a.ContainerID, a.IfName)] = true
		owners[a.ContainerID] = true // as old versions noted it
	}
	var failed []error
	for name, has := range s.owners {
		if owners[has] {
			continue
		}
		if err := os.Remove(filepath.Join(s.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = append(failed, err)
			continue
		}
		delete(s.owners, name)
	}
	return errors.Join(failed...)
}
