// Package netconf reads the network configuration that a runtime gives the plugin, CNI
// spec/SPEC.md section 1: the part for a plugin, as libcni makes it of a list. Errors are
// [types.Error] with the codes of section 5.
package netconf

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/peregrine-dev/peregrine/netplugin/priority"
)

// Versions are those of CNI that configurations may be of and results are given in.
var Versions = []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// Conf is a network configuration.
type Conf struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Type       string `json:"type"`
	// Network is the node's network to attach to, by its name in the agent's configuration;
	// Name unless it is given.
	Network string `json:"network"`
	// IPAM is of the plugin that gives addresses; none is host-local with the node's subnets.
	IPAM types.IPAM `json:"ipam"`
	// PlainIPAM is that ipam has nothing but the type, if that: which addresses there are is
	// left to the node.
	PlainIPAM    bool            `json:"-"`
	DNS          types.DNS       `json:"dns"`
	Capabilities map[string]bool `json:"capabilities"`
	Args         json.RawMessage `json:"args"`
	// RuntimeConfig is what the runtime asks for by capability.
	RuntimeConfig RuntimeConfig `json:"runtimeConfig"`
	// Priority is which class packets are of, as the key "priority" says it: without what the
	// container asks for, which is PriorityWish.
	Priority priority.Policy `json:"-"`
	// Prev is the result of ADD, for CHECK and DEL.
	Prev *types100.Result `json:"-"`
	// Valid are the attachments that GC keeps; nil if the runtime didn't say.
	Valid []types.GCAttachment `json:"-"`

	// Text is the configuration as it came.
	Text []byte `json:"-"`
}

// RuntimeConfig has the capabilities that the plugin knows: addresses and a MAC of the
// runtime's choice, and the annotations of a pod, as containerd's CRI names and gives them.
// IPAM reads the addresses. Others are of other plugins in the list.
type RuntimeConfig struct {
	IPs         []string          `json:"ips"`
	MAC         MAC               `json:"mac"`
	Annotations map[string]string `json:"io.kubernetes.cri.pod-annotations"`
}

// MAC is a MAC address that is written as text.
type MAC net.HardwareAddr

// UnmarshalText reads the usual forms of six bytes.
func (m *MAC) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return nil
	}
	mac, err := net.ParseMAC(string(text))
	if err != nil {
		return err
	}
	if len(mac) != 6 || mac[0]&1 != 0 {
		return fmt.Errorf("%s is no address of one Ethernet interface", text)
	}
	*m = MAC(mac)
	return nil
}

// keys are those that a configuration may have besides cni.dev/*, which are the
// specification's to add. One that nobody knows may ask for confinement: it is refused.
var keys = []string{
	"cniVersion", "name", "type", "network", "ipam", "dns", "priority", "capabilities", "args", "runtimeConfig", "prevResult",
}

// maxName is what a directory's name may have, in bytes: IPAM plugins make one of it.
const maxName = 255

// Parse reads a configuration.
func Parse(text []byte) (*Conf, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "the network configuration is no JSON object", err.Error())
	}
	v, err := (&version.ConfigDecoder{}).Decode(text)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "read cniVersion", err.Error())
	}
	if !slices.Contains(Versions, v) {
		return nil, types.NewError(types.ErrIncompatibleCNIVersion, fmt.Sprintf("cniVersion %q is not supported", v), "use one of "+strings.Join(Versions, ", "))
	}
	for key := range members {
		if !slices.Contains(keys, key) && !strings.HasPrefix(key, "cni.dev/") {
			return nil, types.NewError(types.ErrUnsupportedField, fmt.Sprintf("the network configuration has the unknown key %q", key), "known are "+strings.Join(keys, ", "))
		}
	}
	c := &Conf{Text: text}
	if err := json.Unmarshal(text, c); err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "read the network configuration", err.Error())
	}
	c.CNIVersion = v
	var ipam map[string]json.RawMessage
	if text, there := members["ipam"]; there && json.Unmarshal(text, &ipam) != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "ipam of the network configuration is no object", "")
	}
	delete(ipam, "type")
	c.PlainIPAM = len(ipam) == 0
	if err := utils.ValidateNetworkName(c.Name); err != nil {
		return nil, err
	}
	if len(c.Name) > maxName {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("the name of the network has %d bytes and may have %d", len(c.Name), maxName), "")
	}
	if c.IPAM.Type != "" && c.IPAM.Type == c.Type {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("ipam.type is %q, which is the network plugin and gives no addresses", c.Type), "use host-local, or leave ipam out")
	}
	if c.Network == "" {
		c.Network = c.Name
	}
	if c.Priority, err = readPriority(members["priority"]); err != nil {
		return nil, err
	}
	if err := c.readValid(members); err != nil {
		return nil, err
	}
	return c, c.readPrevious(members["prevResult"])
}

// readValid reads the attachments that GC keeps. Libraries have them under two names, and
// null for none.
func (c *Conf) readValid(members map[string]json.RawMessage) error {
	for _, key := range []string{"cni.dev/valid-attachments", "cni.dev/attachments"} {
		text, there := members[key]
		if !there {
			continue
		}
		if err := json.Unmarshal(text, &c.Valid); err != nil {
			return types.NewError(types.ErrDecodingFailure, "read "+key, err.Error())
		}
		if c.Valid == nil {
			c.Valid = []types.GCAttachment{}
		}
		return nil
	}
	return nil
}

func (c *Conf) readPrevious(text json.RawMessage) error {
	if text == nil {
		return nil
	}
	result, err := version.NewResult(c.CNIVersion, text)
	if err == nil {
		c.Prev, err = types100.NewResultFromResult(result)
	}
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, "read prevResult", err.Error())
	}
	return nil
}
