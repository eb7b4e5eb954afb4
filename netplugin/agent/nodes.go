package agent

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/log"

	"github.com/peregrine-dev/peregrine/netplugin/peers"
)

// nodesFile has the other nodes as they were last heard of. An agent that starts while
// their source can't be reached leaves the routes to them as they are.
const nodesFile = "nodes.json"

func loadNodes(root string) ([]peers.Node, error) {
	text, err := os.ReadFile(filepath.Join(root, nodesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var nodes []peers.Node
	return nodes, json.Unmarshal(text, &nodes)
}

// setNodes takes a new list of the other nodes.
func (a *Agent) setNodes(nodes []peers.Node) {
	if err := saveJSON(a.root, nodesFile, nodes); err != nil {
		log.L.WithError(err).Warn("note the nodes for the next start")
	}
	a.mu.Lock()
	a.nodes = nodes
	a.mu.Unlock()
	a.wake()
}

// wake has the node looked at now.
func (a *Agent) wake() {
	select {
	case a.kick <- struct{}{}:
	default: // it is to look already
	}
}
