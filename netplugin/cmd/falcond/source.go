package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/internal/daemon"
	"github.com/peregrine-dev/peregrine/netplugin/agent"
	"github.com/peregrine-dev/peregrine/netplugin/peers"
)

// instanceFile tells this installation from another node of the same name, in the directory
// of what outlives a reboot.
const instanceFile = "instance"

// newSource is where the other nodes are known from, nil on a node by itself.
func newSource(s settings) (peers.Source, error) {
	c := s.Config
	switch {
	case len(c.Peers.Etcd.Endpoints) > 0:
		id, err := instance(filepath.Join(s.state, instanceFile))
		if err != nil {
			return nil, err
		}
		e := c.Peers.Etcd
		return peers.Etcd(peers.EtcdConfig{
			Endpoints: e.Endpoints, Prefix: e.Prefix, CA: e.CA, Cert: e.Cert, Key: e.Key,
			Username: e.Username, PasswordFile: e.PasswordFile, Instance: id,
		}), nil
	case c.Peers.File != "":
		return peers.File(c.Peers.File), nil
	}
	return nil, nil
}

func instance(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return string(text), err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", err
	}
	id := rand.Text()
	if err := os.WriteFile(file+".new", []byte(id), 0o600); err != nil {
		return "", err
	}
	return id, os.Rename(file+".new", file)
}

// leave takes this node out of the source of nodes.
func leave(ctx context.Context, s settings) error {
	lock, err := daemon.Lock(s.root)
	if err != nil {
		return fmt.Errorf("the agent would come back: %w", err)
	}
	defer lock.Close()
	source, err := newSource(s)
	if err != nil {
		return err
	}
	leaver, ok := source.(peers.Leaver)
	if !ok {
		return fmt.Errorf("this node is in no etcd to leave; take it out of the other nodes' files: %w", errdefs.ErrFailedPrecondition)
	}
	return leaver.Leave(ctx, agent.Self(s.Config))
}
