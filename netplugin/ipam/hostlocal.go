package ipam

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"
)

// addLocal is host-local's ADD.
func (r Request) addLocal(c conf) (*types100.Result, error) {
	ipam, confVersion, err := allocator.LoadIPAMConfig(r.Config, r.Args)
	if err != nil {
		return nil, err
	}
	result := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, Routes: ipam.Routes}
	if ipam.ResolvConf != "" {
		if result.DNS, err = resolvConf(ipam.ResolvConf); err != nil {
			return nil, err
		}
	}
	open := openStoreWhole
	if r.Fresh {
		open = openStore
	}
	s, err := open(c)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if result.IPs, err = r.reserve(s, ipam); err != nil {
		return nil, err
	}
	// By way of the configuration's version, which may have no room for all.
	old, err := result.GetAsVersion(confVersion)
	if err == nil {
		result, err = types100.NewResultFromResult(old)
	}
	if err != nil {
		r.release(s, len(ipam.Ranges), result.IPs)
		return nil, err
	}
	return result, nil
}

// reserve takes an address of each set of ranges: the one asked for, if there is one.
func (r Request) reserve(s *store, ipam *allocator.IPAMConfig) (got []*types100.IPConfig, err error) {
	defer func() {
		// What the interface had before is kept only if nothing was given now, as the
		// stock plugin does it.
		if err != nil && len(got) > 0 {
			r.release(s, len(got), got)
		}
	}()
	requested := map[string]net.IP{}
	for _, ip := range ipam.IPArgs {
		requested[ip.String()] = ip
	}
	for i := range ipam.Ranges {
		ranges := &ipam.Ranges[i]
		var want net.IP
		for _, key := range sortedKeys(requested) {
			if ranges.Contains(requested[key]) {
				want = requested[key]
				delete(requested, key)
				break
			}
		}
		ip, err := allocator.NewIPAllocator(ranges, s, i).Get(r.ContainerID, r.IfName, want)
		if err != nil {
			return got, fmt.Errorf("failed to allocate for range %d: %w", i, err)
		}
		got = append(got, ip)
	}
	if len(requested) > 0 {
		return got, fmt.Errorf("failed to allocate all requested IPs: %s", strings.Join(sortedKeys(requested), " "))
	}
	return got, nil
}

func sortedKeys(m map[string]net.IP) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// release gives all of the interface's addresses back, got if it had none before. That is
// said once for each set of ranges, as the stock plugin does: what finds nothing releases
// what old versions noted.
func (r Request) release(s *store, ranges int, got []*types100.IPConfig) {
	if s.owners == nil {
		for _, ip := range got {
			if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
				_ = s.releaseKnown(r.ContainerID, r.IfName, []netip.Addr{a}) // DEL tries again
			}
		}
		return
	}
	for range ranges {
		_ = s.ReleaseByID(r.ContainerID, r.IfName) // has no errors
	}
}

// delLocal is host-local's DEL. It asks for a sound configuration, as the stock plugin
// does, unless that names no range.
func (r Request) delLocal(c conf) error {
	ranges := 1
	if isBare(r.Config) {
		if !c.hasStore() {
			return nil
		}
	} else {
		ipam, _, err := allocator.LoadIPAMConfig(r.Config, r.Args)
		if err != nil {
			return err
		}
		ranges = len(ipam.Ranges)
	}
	if len(r.Addresses) > 0 {
		s, err := openStore(c)
		if err != nil {
			return err
		}
		defer s.Close()
		return s.releaseKnown(r.ContainerID, r.IfName, r.Addresses)
	}
	s, err := openStoreWhole(c)
	if err != nil {
		return err
	}
	defer s.Close()
	r.release(s, ranges, nil)
	return nil
}

// checkLocal is host-local's CHECK.
func (r Request) checkLocal(c conf) error {
	if _, _, err := allocator.LoadIPAMConfig(r.Config, r.Args); err != nil {
		return err
	}
	s, err := openStoreWhole(c)
	if err != nil {
		return err
	}
	defer s.Close()
	if len(s.GetByID(r.ContainerID, r.IfName)) == 0 {
		return fmt.Errorf("host-local: Failed to find address added by container %v", r.ContainerID)
	}
	return nil
}

// collect is a GC, which host-local has none of.
func collect(c conf, valid []types.GCAttachment) error {
	if !c.hasStore() {
		return nil
	}
	s, err := openStoreWhole(c)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.keep(valid)
}
