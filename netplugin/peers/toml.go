package peers

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
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
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&f); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", placed(err), errdefs.ErrInvalidArgument)
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

// placed starts the decoder's error with line and column.
func placed(err error) error {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
		row, col := unknown.Errors[0].Position()
		return fmt.Errorf("%d:%d: unknown key %q, want [[node]] with name, address and [[node.network]] with vni, subnets",
			row, col, strings.Join(unknown.Errors[0].Key(), "."))
	}
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		row, col := decode.Position()
		return fmt.Errorf("%d:%d: %s", row, col, strings.TrimPrefix(decode.Error(), "toml: "))
	}
	return fmt.Errorf("1:1: %w", err)
}
