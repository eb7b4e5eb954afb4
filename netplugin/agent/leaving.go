package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/peregrine-dev/peregrine/netplugin/config"
)

// networksFile has the networks that there are on the node. One that is taken out of the
// configuration stays, closed to new containers, until its last container is gone: its
// rules keep it apart from the others.
const networksFile = "networks.json"

// loadLeaving finds the networks of the last run that the configuration doesn't have.
func (a *Agent) loadLeaving() error {
	text, err := os.ReadFile(filepath.Join(a.root, networksFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var before []config.Network
	if err := json.Unmarshal(text, &before); err != nil {
		return err
	}
	for _, n := range before {
		if !slices.ContainsFunc(a.config.Networks, func(c config.Network) bool { return c.VNI == n.VNI }) {
			a.leaving = append(a.leaving, n)
		}
	}
	return nil
}

// leavingInTheWay is an error if a network that still has containers has addresses that
// the configuration gives to another.
func (a *Agent) leavingInTheWay() error {
	for _, old := range a.leaving {
		for _, n := range a.config.Networks {
			overlap := slices.ContainsFunc(old.Subnets, func(p netip.Prefix) bool {
				return slices.ContainsFunc(n.Subnets, p.Overlaps)
			})
			var users []string
			for _, r := range a.records() {
				if overlap && r.VNI == old.VNI && r.Offer != r.ContainerID {
					users = append(users, r.ContainerID)
				}
			}
			if len(users) > 0 {
				return fmt.Errorf("network %s has subnets that network %s, VNI %d, still has containers in: %s; remove these or put that network back: %w",
					n.Name, old.Name, old.VNI, strings.Join(users, ", "), errdefs.ErrFailedPrecondition)
			}
		}
	}
	return nil
}

// networks are those of the configuration, and those that are leaving.
func (a *Agent) networks() []config.Network {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Concat(a.config.Networks, a.leaving)
}

// saveNetworks is called before the networks are set up.
func (a *Agent) saveNetworks() error { return saveJSON(a.root, networksFile, a.networks()) }

// removeLeft removes the networks that are leaving and have no container any more.
func (a *Agent) removeLeft(ctx context.Context) error {
	if a.unreadable || a.underlay() == nil {
		return nil
	}
	used := map[uint32]bool{}
	for _, r := range a.records() {
		used[r.VNI] = true
	}
	a.mu.Lock()
	leaving := a.leaving
	a.mu.Unlock()
	var stay []config.Network
	var errs error
	for _, n := range leaving {
		if used[n.VNI] {
			stay = append(stay, n)
			continue
		}
		if err := a.underlay().Remove(n.VNI); err != nil {
			errs = errors.Join(errs, err)
			stay = append(stay, n)
			continue
		}
		log.G(ctx).WithField("network", n.Name).Info("removed a network that is not in the configuration any more")
	}
	if len(stay) == len(leaving) {
		return errs
	}
	a.mu.Lock()
	a.leaving = stay
	a.mu.Unlock()
	return errors.Join(errs, a.saveNetworks())
}
