package claim

import (
	"strconv"
	"syscall"
)

// Claimer takes parts out of one profile. Many may work on the same directory at once;
// one value is used by one goroutine.
type Claimer struct {
	Dir string // the profile's directory, absolute

	// Shim finds flashcube-shim; it returns an empty path if there is none. It is called for
	// a cold start only.
	Shim func() string

	// AddressFile asks for the file address in the bundle, by which a containerd without
	// bootstrap.json, 1.7 and older, finds the shim after a restart.
	AddressFile bool
}

// Take finds a shim for a container: a ready part, or one that is started now. It returns
// the shim's address, unix:// and a path. After an error nothing is running for the
// request, or what is running ends within a minute.
func (c *Claimer) Take(r *Request) (address string, err error) {
	// The longest name a part can have; with it no other part is refused later.
	if n := len(c.Dir) + len("/claimed/cold-4194304-0123456789abcdef/shim.sock"); n > maxSocketPath {
		return "", failed("use", c.Dir, Text("a socket's path below it would have "+strconv.Itoa(n)+
			" bytes and may have "+strconv.Itoa(maxSocketPath)+"; choose a shorter FLASHCUBE_ROOT"))
	}
	counter := Hit
	part, err := c.takeReady(r)
	if err == nil && part == "" {
		counter = Miss
		part, err = c.startCold(r)
	}
	if err != nil {
		return "", err
	}
	address = "unix://" + part + "/" + Socket
	if err := c.note(r.Bundle, part, address); err != nil {
		return "", err
	}
	_ = Count(c.Dir, counter)
	return address, nil
}

// Text is an error that says how it is.
type Text string

// Error returns the text.
func (t Text) Error() string { return string(t) }

// takeReady claims a part of the pool. It returns the part's directory, empty if there
// is no part.
func (c *Claimer) takeReady(r *Request) (string, error) {
	var claim []byte
	pid := syscall.Getpid()
	// A part that another claimer was faster to take is no reason for a cold start as
	// long as there are others: the list is read again, but not for ever.
	for range 4 {
		all, err := names(c.Dir+"/"+Ready, true)
		if err != nil || len(all) == 0 {
			return "", nil // without a pool there is no directory
		}
		for i := range all {
			// Claimers at the same time begin at different parts.
			name := all[(i+pid)%len(all)]
			part := c.Dir + "/" + Claimed + "/" + name
			if syscall.Rename(c.Dir+"/"+Ready+"/"+name, part) != nil {
				continue
			}
			if claim == nil {
				claim = r.appendJSON(make([]byte, 0, 512))
			}
			if err := replaceFile(part+"/"+ClaimFile, claim); err != nil {
				_ = syscall.Rename(part, c.Dir+"/"+Ready+"/"+name)
				return "", err
			}
			switch err := knock(part + "/" + Socket); err {
			case nil:
				return part, nil
			case syscall.ECONNREFUSED, syscall.ENOENT:
				removeFlat(part) // dead
			default:
				_ = syscall.Unlink(part + "/" + ClaimFile) // whoever keeps the pool ends it
			}
		}
	}
	return "", nil
}

// Knock connects to the socket of the part in a directory and hangs up, by which a claimed part learns that
// it is claimed. ECONNREFUSED and ENOENT mean that the part is dead, EAGAIN that
// its queue is full: it takes no connections.
func Knock(part string) error { return knock(part + "/" + Socket) }

func knock(path string) error {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	return retry(func() error { return syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}) })
}

// note leaves in the bundle what delete, and containerd after a restart, look for.
func (c *Claimer) note(bundle, part, address string) error {
	link := bundle + "/" + Link
	err := syscall.Symlink(part, link)
	if err == syscall.EEXIST { // of a start that was killed
		_ = syscall.Unlink(link)
		err = syscall.Symlink(part, link)
	}
	if err != nil {
		return failed("make the link", link, err)
	}
	if c.AddressFile {
		return writeFile(bundle+"/address", []byte(address))
	}
	return nil
}
