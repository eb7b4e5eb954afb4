// Package endpoint records the attachments of a node: what was given to which container,
// so that it can be taken back without asking again, by the agent or without it.
//
// A store is a directory with one JSON file for each attachment. It belongs on
// a filesystem that a reboot empties (below /run), as what it describes does not survive
// one either. That is why nothing is synced to a disk: a file is written and renamed, so
// after a kill it is the old one or the new one, and after a power failure there is none.
package endpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/pkg/utils"

	"github.com/peregrine-dev/peregrine/netplugin/priority"
)

// Record is one attachment: one interface of one container. ContainerID and IfName
// identify it.
type Record struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
	Network     string `json:"network"`
	VNI         uint32 `json:"vni"`
	ConfName    string `json:"confName,omitempty"` // of CNI's configuration, by which GC goes

	Link      string         `json:"link"` // the host's end
	MAC       MAC            `json:"mac,omitempty"`
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Gateways  []netip.Addr   `json:"gateways,omitempty"`
	Routes    []Route        `json:"routes,omitempty"` // none: by the gateways
	MTU       int            `json:"mtu,omitempty"`    // bytes

	// Priority is which class its packets are of while nobody has reserved another. Records
	// of earlier versions have none: all is normal.
	Priority priority.Policy `json:"priority,omitzero"`

	// Namespace is the path that the container's network namespace was given by. It may
	// name another one later: NamespaceInode tells.
	Namespace      string `json:"namespace,omitempty"`
	NamespaceInode uint64 `json:"namespaceInode,omitempty"`

	// Config, Path and Args are what ADD was called with, to release the addresses by.
	Config json.RawMessage `json:"config,omitempty"`
	Path   []string        `json:"path,omitempty"`
	Args   string          `json:"args,omitempty"`
	Result json.RawMessage `json:"result,omitempty"` // what ADD answered, as of CNI 1.1.0

	BootID   string    `json:"bootID,omitempty"` // of the boot it was made in
	Created  time.Time `json:"created"`
	Complete bool      `json:"complete"`        // false: ADD began and has not ended well
	Offer    string    `json:"offer,omitempty"` // the offer that the namespace came from
}

// Route is a route inside the container; see attach.Route.
type Route struct {
	Destination netip.Prefix `json:"destination"`
	Via         netip.Addr   `json:"via"`
}

// MAC is a net.HardwareAddr that is text in JSON, as 02:00:0a:01:00:05.
type MAC net.HardwareAddr

func (m MAC) String() string { return net.HardwareAddr(m).String() }

// MarshalText implements encoding.TextMarshaler.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *MAC) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*m = nil
		return nil
	}
	a, err := net.ParseMAC(string(text))
	if err != nil {
		return err
	}
	*m = MAC(a)
	return nil
}

// fileName of an attachment: the begin of the container's ID for who looks, and a hash
// because an ID may be longer than a file's name, and an interface's name may have any
// characters.
func fileName(containerID, ifname string) string {
	sum := sha256.Sum256([]byte(containerID + "\x00" + ifname))
	return containerID[:min(len(containerID), 12)] + "-" + hex.EncodeToString(sum[:16]) + suffix
}

// identified refuses what CNI does not allow for an ID or an interface's name.
func identified(containerID, ifname string) error {
	if err := utils.ValidateContainerID(containerID); err != nil {
		return fmt.Errorf("container %q: %v: %w", containerID, err, errdefs.ErrInvalidArgument)
	}
	if err := utils.ValidateInterfaceName(ifname); err != nil {
		return fmt.Errorf("interface %q: %v: %w", ifname, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

func encode(r Record) ([]byte, error) {
	if err := identified(r.ContainerID, r.IfName); err != nil {
		return nil, err
	}
	if err := r.Priority.Validate(); err != nil {
		return nil, fmt.Errorf("priority: %w", err)
	}
	return json.Marshal(r)
}

// decode reads the file of a name. Keys it doesn't know are a later version's, and passed over.
func decode(name string, data []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, err
	}
	if err := identified(r.ContainerID, r.IfName); err != nil {
		return Record{}, err
	}
	if err := r.Priority.Validate(); err != nil {
		return Record{}, fmt.Errorf("priority: %w", err)
	}
	if name != fileName(r.ContainerID, r.IfName) {
		return Record{}, fmt.Errorf("it is the record of container %s, interface %s, under another name: %w", r.ContainerID, r.IfName, errdefs.ErrInvalidArgument)
	}
	return r, nil
}
