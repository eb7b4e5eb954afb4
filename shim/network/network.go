// Package network takes network namespaces that were made ahead: plugged in and
// addressed by a network plugin, waiting for containers.
//
// # The directory protocol
//
// A network NAME offers namespaces in /run/flashcube/network/NAME, or below
// $FLASHCUBE_ROOT:
//
//	ready/N/     offers that anybody may take
//	taken/N/     offers that a container has
//	done/N/      offers whose container is gone
//
// N is any name that is unique among all. The plugin makes the directory of an offer
// elsewhere on the same filesystem, completes it, and renames it to ready/N. It has:
//
//	ns               the namespace, a bind mount of /proc/PID/ns/net
//	owner            "PID STARTTIME" of the shim that took it; STARTTIME is field 22 of
//	                 /proc/PID/stat
//	container.json   whose it is: {"id", "namespace", "bundle", "pid"}, there before the
//	                 container's program runs and before Create returns
//
// Taking is rename(ready/N, taken/N): of many takers one succeeds. When the container is
// deleted, or could not be made, the shim renames the offer to done/N, where the plugin
// takes it apart. An offer in taken whose owner is dead and whose bundle is gone, or that
// has no owner after a minute, is the plugin's to take apart too. No namespace is offered
// twice.
//
// Who configures the network of a container (a CNI plugin by ADD, nerdctl by a
// createRuntime hook) is given the namespace's path as ever, finds the offer by the
// namespace's inode, and has nothing left to do.
//
// A container gets an offer only if its annotation peregrine.dev/flashcube.network names
// the network, and if its spec asks for a network namespace of its own: what asks for
// isolation is isolated.
package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// Annotation names the network that a container wants an offer of.
const Annotation = "peregrine.dev/flashcube.network"

const (
	ready = "ready"
	taken = "taken"
	done  = "done"

	namespaceFile = "ns"
	ownerFile     = "owner"
	containerFile = "container.json"
)

// Dir is the directory of a network below root, the directory of all profiles.
func Dir(root, network string) string { return filepath.Join(root, "network", network) }

// Offer is a namespace that was taken. Its methods are one caller's.
type Offer struct {
	// Namespace is open until the offer is ended.
	Namespace *os.File

	dir, name string
}

// Container is whose an offer is.
type Container struct {
	ID        string `json:"id"`
	Namespace string `json:"namespace"` // containerd's
	Bundle    string `json:"bundle"`
	Pid       int    `json:"pid"` // of the init
}

// Take takes an offer of the network in a directory, nil if there is none. owner is a
// line "PID STARTTIME" of the process that has it from now on. An offer that isn't a
// network namespace is passed over, and goes to done.
func Take(ctx context.Context, dir, owner string) (*Offer, error) {
	entries, err := os.ReadDir(filepath.Join(dir, ready))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for network namespaces: %w", err)
	}
	for _, e := range entries {
		o := &Offer{dir: dir, name: e.Name()}
		if err := o.move(ready, taken); err != nil {
			continue // somebody else's
		}
		if err := o.open(owner); err != nil {
			log.G(ctx).WithError(err).WithField("offer", e.Name()).Warn("pass over an offer of a network namespace")
			if err := o.move(taken, done); err != nil {
				return nil, fmt.Errorf("put the offer %s away: %w", e.Name(), err)
			}
			continue
		}
		return o, nil
	}
	return nil, nil
}

func (o *Offer) path(state, file string) string { return filepath.Join(o.dir, state, o.name, file) }

func (o *Offer) move(from, to string) error {
	if err := os.Mkdir(filepath.Join(o.dir, to), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Rename(o.path(from, ""), o.path(to, ""))
}

func (o *Offer) open(owner string) (err error) {
	if o.Namespace, err = os.Open(o.path(taken, namespaceFile)); err != nil {
		return err
	}
	if err := checkNetwork(o.Namespace); err != nil {
		return errors.Join(err, o.Namespace.Close())
	}
	if err := os.WriteFile(o.path(taken, ownerFile), []byte(owner+"\n"), 0o600); err != nil {
		return errors.Join(err, o.Namespace.Close())
	}
	return nil
}

// checkNetwork makes sure that a file is a network namespace: it could be one of
// another kind, or a plain file.
func checkNetwork(f *os.File) error {
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil {
		return fmt.Errorf("%s is no namespace: %w", f.Name(), err)
	}
	if kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%s is no network namespace: %w", f.Name(), unix.EINVAL)
	}
	return nil
}

// Use notes whose the offer is.
func (o *Offer) Use(c Container) error {
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	file := o.path(taken, containerFile)
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		return fmt.Errorf("note who uses a network namespace: %w", err)
	}
	return os.Rename(file+".new", file)
}

// Done ends an offer whose container is gone.
func (o *Offer) Done() error { return errors.Join(o.Namespace.Close(), o.move(taken, done)) }

// Finish is Done for a shim that died: dir is the network's directory, name the offer's.
// One that is gone is no error.
func Finish(dir, name string) error {
	o := &Offer{dir: dir, name: name}
	err := o.move(taken, done)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Place is where the offer is: the network's directory and the offer's name.
func (o *Offer) Place() (dir, name string) { return o.dir, o.name }
