package agent

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/ipam"
)

// ipamSettings is the configuration that the IPAM plugin is given. Where the request
// leaves it to the node which addresses there are, they are the node's subnets, under the
// network's name: however many configurations use the network, no address is given twice.
// usual tells whether any such address will do.
func ipamSettings(r *Request, n *config.Network) (settings []byte, usual bool, err error) {
	settings, err = ipam.WithRanges(r.Conf.Text, n.Subnets)
	if err != nil || bytes.Equal(settings, r.Conf.Text) {
		return settings, false, err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(settings, &members); err != nil {
		return nil, false, err
	}
	if members["name"], err = json.Marshal(n.Name); err != nil {
		return nil, false, err
	}
	settings, err = json.Marshal(members)
	return settings, usualWishes(r), err
}

// usualWishes tells whether a request leaves all to the node.
func usualWishes(r *Request) bool {
	return r.Conf.PlainIPAM && len(r.Conf.RuntimeConfig.IPs) == 0 && r.Conf.RuntimeConfig.MAC == nil &&
		onlyLabels(r.Conf.Args) && !strings.Contains(";"+r.Args, ";IP=")
}

// onlyLabels tells whether args of a configuration asks for nothing: whoever labels its
// containers asks for no address by that.
func onlyLabels(args json.RawMessage) bool {
	if args == nil {
		return true
	}
	var members map[string]map[string]json.RawMessage
	if err := json.Unmarshal(args, &members); err != nil {
		return false
	}
	for of, wishes := range members {
		for key := range wishes {
			if of != "cni" || key != "labels" {
				return false
			}
		}
	}
	return true
}
