package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/peregrine-dev/peregrine/plasma/service"
)

// dirs are where a server's things are on the node.
type dirs struct {
	run, peers, state string
	log               string // a file
	socket            string // the host's, in peers
}

// dirs gives those of a server, whose ID is one of service.SplitServerID's.
func (d *Driver) dirs(id string) dirs {
	name, _, _ := service.SplitServerID(id)
	peers := filepath.Join(d.o.Run, "peers", name)
	return dirs{
		run:    filepath.Join(d.o.Run, "servers", id),
		peers:  peers,
		state:  filepath.Join(d.o.Root, "servers", id),
		log:    filepath.Join(d.o.Root, "log", id+".log"),
		socket: filepath.Join(peers, id+".sock"),
	}
}

// make makes what is missing, and returns what removes that again.
func (n dirs) make() (undo func() error, err error) {
	var made []string
	undo = func() (err error) {
		for _, path := range made {
			err = errors.Join(err, os.RemoveAll(path))
		}
		return err
	}
	for _, dir := range []string{n.run, n.state} {
		if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
			return undo, err
		}
		switch err := os.Mkdir(dir, 0o700); {
		case err == nil:
			made = append(made, dir)
		case !errors.Is(err, os.ErrExist):
			return undo, err
		}
	}
	if err := os.MkdirAll(filepath.Dir(n.log), 0o700); err != nil {
		return undo, err
	}
	if _, err := os.Lstat(n.log); errors.Is(err, os.ErrNotExist) {
		made = append(made, n.log)
	}
	return undo, os.MkdirAll(n.peers, 0o700)
}

// own gives the directories to the user whom the server's process has.
func (n dirs) own(uid, gid uint32) error {
	for _, dir := range []string{n.run, n.peers, n.state} {
		if err := os.Chown(dir, int(uid), int(gid)); err != nil {
			return err
		}
	}
	return nil
}

// remove removes all but what the service's servers share, and the state only if that is said.
func (n dirs) remove(state bool) error {
	err := errors.Join(os.RemoveAll(n.run), os.RemoveAll(n.log), os.RemoveAll(n.socket))
	if state {
		err = errors.Join(err, os.RemoveAll(n.state))
	}
	return err
}

// leavePeers removes the directory that a service's servers share, after the last of them.
func (d *Driver) leavePeers(ctx context.Context, id string) error {
	name, _, _ := service.SplitServerID(id)
	unlock, err := d.locks.lock(ctx, "service "+name)
	if err != nil {
		return err
	}
	defer unlock()
	others, err := d.client.ContainerService().List(ctx, fmt.Sprintf("labels.%q==%q", LabelService, name))
	if err != nil {
		return fmt.Errorf("look for other servers of %s: %w", name, err)
	}
	if len(others) > 0 {
		return nil
	}
	return os.RemoveAll(d.dirs(id).peers)
}
