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
		len(r.Conf.Args) == 0 && !strings.Contains(";"+r.Args, ";IP=")
}
