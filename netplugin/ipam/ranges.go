package ipam

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
)

// WithRanges completes a configuration for a node: without an ipam section it gets one
// of type host-local, and a host-local one that names no range of addresses gets the
// node's subnets, one set for each family, so that a container has one address of each.
// Any other configuration is returned as it is.
func WithRanges(config []byte, subnets []netip.Prefix) ([]byte, error) {
	var c map[string]json.RawMessage
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("network configuration: %v", err), "")
	}
	if c == nil {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration is null", "")
	}
	var ipam map[string]json.RawMessage
	if raw, ok := c["ipam"]; ok {
		if err := json.Unmarshal(raw, &ipam); err != nil {
			return nil, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("ipam section: %v", err), "")
		}
	}
	if len(ipam) == 0 {
		ipam = map[string]json.RawMessage{"type": json.RawMessage(`"` + HostLocal + `"`)}
	}
	if named, err := namesRanges(c, ipam); named || err != nil {
		return config, err
	}
	sets := rangeSets(subnets)
	if len(sets) == 0 {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "the configuration names no range of addresses and the node has no subnet in this network", "")
	}
	var err error
	if ipam["ranges"], err = json.Marshal(sets); err != nil {
		return nil, err
	}
	if c["ipam"], err = json.Marshal(ipam); err != nil {
		return nil, err
	}
	return json.Marshal(c)
}

// namesRanges is also true if the type has none.
func namesRanges(c, ipam map[string]json.RawMessage) (bool, error) {
	var section struct {
		Type   string            `json:"type"`
		Subnet string            `json:"subnet"`
		Ranges []json.RawMessage `json:"ranges"`
	}
	var runtime struct {
		Ranges []json.RawMessage `json:"ipRanges"`
	}
	raw, err := json.Marshal(ipam)
	if err == nil {
		err = json.Unmarshal(raw, &section)
	}
	if raw, ok := c["runtimeConfig"]; ok && err == nil {
		err = json.Unmarshal(raw, &runtime)
	}
	if err != nil {
		return false, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("ipam section: %v", err), "")
	}
	return section.Type != HostLocal || section.Subnet != "" || len(section.Ranges) > 0 || len(runtime.Ranges) > 0, nil
}

// isBare tells whether a host-local configuration names no range.
func isBare(config []byte) bool {
	var c struct {
		IPAM struct {
			Subnet string            `json:"subnet"`
			Ranges []json.RawMessage `json:"ranges"`
		} `json:"ipam"`
		Runtime struct {
			Ranges []json.RawMessage `json:"ipRanges"`
		} `json:"runtimeConfig"`
	}
	err := json.Unmarshal(config, &c)
	return err == nil && c.IPAM.Subnet == "" && len(c.IPAM.Ranges) == 0 && len(c.Runtime.Ranges) == 0
}

type addressRange struct {
	Subnet netip.Prefix `json:"subnet"`
}

func rangeSets(subnets []netip.Prefix) (sets [][]addressRange) {
	for _, v4 := range []bool{true, false} {
		var set []addressRange
		for _, s := range subnets {
			if s.IsValid() && s.Addr().Is4() == v4 {
				set = append(set, addressRange{s.Masked()})
			}
		}
		if set != nil {
			sets = append(sets, set)
		}
	}
	return sets
}
