package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/log"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/peregrine-dev/peregrine/netplugin/ipam"
	"github.com/peregrine-dev/peregrine/netplugin/netconf"
)

const (
	// bootFile has the ID of the boot in which the agent ran last.
	bootFile = "boot_id"
	// leasesFile has the configurations by which host-local gave addresses, one for each place
	// that it keeps them in.
	leasesFile = "leases.json"
)

// place is where host-local keeps the addresses of a configuration.
type place struct{ name, dir string }

func placeOf(settings []byte) (p place, local bool, err error) {
	var c struct {
		Name string `json:"name"`
		IPAM struct {
			Type    string `json:"type"`
			DataDir string `json:"dataDir"`
		} `json:"ipam"`
	}
	err = json.Unmarshal(settings, &c)
	return place{c.Name, c.IPAM.DataDir}, c.IPAM.Type == ipam.HostLocal, err
}

// leases are the places that addresses were given from, with a configuration for each.
// They outlive a reboot, as the addresses do.
type leases struct {
	// use is held for reading while a record is made, which comes before its addresses, and
	// for writing while addresses are taken back that no record has.
	use sync.RWMutex

	mu     sync.Mutex
	places map[place]json.RawMessage
}

func (a *Agent) loadLeases() error {
	a.leases.places = map[place]json.RawMessage{}
	text, err := os.ReadFile(filepath.Join(a.stateDir, leasesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var list []json.RawMessage
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	for _, settings := range list {
		p, _, err := placeOf(settings)
		if err != nil {
			return err
		}
		a.leases.places[p] = settings
	}
	return nil
}

// noteLease notes where addresses are about to be given from. It reports whether an
// interface without a record has no address there: what was left by those before the last
// boot has been given back.
func (a *Agent) noteLease(settings []byte) (fresh bool, err error) {
	p, local, err := placeOf(settings)
	if err != nil || !local {
		return false, err
	}
	a.leases.mu.Lock()
	defer a.leases.mu.Unlock()
	if _, known := a.leases.places[p]; known {
		return true, nil
	}
	a.leases.places[p] = settings
	list := slices.Collect(maps.Values(a.leases.places))
	if err := os.MkdirAll(a.stateDir, 0o700); err != nil {
		return false, err
	}
	// Others may have given addresses there before.
	return false, saveJSON(a.stateDir, leasesFile, list)
}

// reclaim gives back the addresses of containers from before the node's last boot, which
// nobody may ever DEL: they outlive a reboot, records don't.
func (a *Agent) reclaim(ctx context.Context) error {
	file := filepath.Join(a.stateDir, bootFile)
	last, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if string(last) == a.bootID {
		return nil
	}
	if a.unreadable {
		return nil
	}
	a.leases.use.Lock()
	defer a.leases.use.Unlock()
	for p, settings := range a.leases.places {
		if err := ipam.GC(ctx, ipam.Request{Config: settings}, a.owners()); err != nil {
			return err
		}
		log.G(ctx).WithField("name", p.name).Info("gave back the addresses of containers from before the last boot")
	}
	if err := os.MkdirAll(a.stateDir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(a.bootID), 0o600)
}

// owners are those who have addresses, as IPAM plugins know them.
func (a *Agent) owners() []types.GCAttachment {
	list := []types.GCAttachment{}
	for _, r := range a.records() {
		lease := leaseOf(r)
		list = append(list, types.GCAttachment{ContainerID: lease.ContainerID, IfName: lease.IfName})
	}
	return list
}

// usualConf is the least that a network configuration can be.
func usualConf(network string) (*netconf.Conf, error) {
	text, err := json.Marshal(map[string]string{"cniVersion": "1.1.0", "name": network, "type": "falcon"})
	if err != nil {
		return nil, err
	}
	return netconf.Parse(text)
}
