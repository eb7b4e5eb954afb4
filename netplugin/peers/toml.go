package peers

import (
	"bytes"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/internal/tomlfile"
)

// file is the form of a file of nodes.
type file struct {
	Nodes []fileNode `toml:"node"`
}

type fileNode struct {
	Name     string        `toml:"name"`
	Address  netip.Addr    `toml:"address"`
	Networks []fileNetwork `toml:"network"`
}

type fileNetwork struct {
	VNI     uint32         `toml:"vni"`
	Subnets []netip.Prefix `toml:"subnets"`
}

// decodeFile reads a file of nodes, in the order of the file. A node that can be read but
// can't be is among unreadable. The error is ErrInvalidArgument and starts with line and
// column.
func decodeFile(text []byte) (nodes []Node, unreadable []Rejected, err error) {
	// An editor that writes in place makes the file empty first; this must not look like
	// the end of all nodes.
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil, fmt.Errorf("1:1: the file is empty; for no nodes, write a comment: %w", errdefs.ErrInvalidArgument)
	}
	var f file
	if err := tomlfile.Decode(text, &f); err != nil {
		return nil, nil, err
	}
	for _, n := range f.Nodes {
		node := Node{n.Name, n.Address, make(map[uint32][]netip.Prefix, len(n.Networks))}
		var twice error
		for _, network := range n.Networks {
			if _, ok := node.Networks[network.VNI]; ok {
				twice = invalid("network %d is there twice; put all of its subnets into one", network.VNI)
			}
			node.Networks[network.VNI] = network.Subnets
		}
		if twice != nil {
			unreadable = append(unreadable, Rejected{n.Name, twice})
			continue
		}
		nodes = append(nodes, node)
	}
	return nodes, unreadable, nil
}
