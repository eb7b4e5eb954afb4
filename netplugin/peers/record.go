package peers

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
)

// record is a node in etcd, whose key has the name. Fields that this version doesn't know
// are ignored: nodes are updated one after the other.
type record struct {
	Address  netip.Addr                `json:"address"`
	Networks map[uint32][]netip.Prefix `json:"networks"` // by VNI
	// Instance is EtcdConfig.Instance.
	Instance string `json:"instance,omitempty"`
}

// maxRecord is the length of a record in bytes, well above maxSubnets of the longest.
const maxRecord = 128 << 10

// encodeRecord is the same for the same node.
func encodeRecord(n Node, instance string) []byte {
	networks := make(map[uint32][]netip.Prefix, len(n.Networks))
	for vni, subnets := range n.Networks {
		networks[vni] = sorted(subnets)
	}
	text, err := json.Marshal(record{n.Address, networks, instance})
	if err != nil {
		panic(err) // no value of these types can't be encoded
	}
	return text
}

// decodeRecord reads what is at prefix/nodes/NAME. Errors are ErrInvalidArgument. The
// node is not validated.
func decodeRecord(name string, text []byte) (Node, record, error) {
	var r record
	if len(text) > maxRecord {
		return Node{}, r, fmt.Errorf("a record of %d bytes, want at most %d: %w", len(text), maxRecord, errdefs.ErrInvalidArgument)
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return Node{}, r, fmt.Errorf("no record of a node: %s: %w", strings.TrimPrefix(err.Error(), "json: "), errdefs.ErrInvalidArgument)
	}
	return Node{name, r.Address, r.Networks}, r, nil
}
