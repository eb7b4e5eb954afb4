// Package ipam gives containers their addresses as a CNI network plugin does: by the
// IPAM plugin that the network's configuration names.
//
// "host-local" runs in this process, on the files of the stock plugin (one for each
// address, below dataDir) and under its lock, so that the stock plugin may be used on
// the same network at the same time: an address that one of them reserved the other
// can release. Every other type is executed.
//
// Who is killed at any moment leaves at most reservations in the name of the container
// and its interface, which Del or GC release.
//
// All errors are (or wrap) *types.Error with a code of the CNI specification, as the
// plugin gave it; an executed plugin that is stopped because the context is done gives
// the context's. host-local takes no notice of the context: it waits for the lock, which
// others have for milliseconds. The package keeps no state; its functions may be called concurrently.
package ipam

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
)

// HostLocal is the type that runs in process.
const HostLocal = "host-local"

// Request is what a network plugin got by its environment and its standard input.
type Request struct {
	ContainerID string
	IfName      string
	NetNS       string   // path; may be empty for Del and GC
	Path        []string // directories of plugins (CNI_PATH); host-local in process needs none
	Args        string   // CNI_ARGS
	Config      []byte   // the plugin's whole network configuration: name, cniVersion, ipam

	// What the caller knows spares host-local in process to read what every address of the
	// network is whose. Fresh: the interface has no address yet. Addresses: all that it has.
	Fresh     bool
	Addresses []netip.Addr
}

// Add reserves addresses. The result is of the current version of the specification,
// whatever the configuration's is. An interface that has addresses already is an error,
// as it is with the stock plugin: Del first.
func Add(ctx context.Context, r Request) (*types100.Result, error) {
	c, err := r.decode(true)
	if err != nil {
		return nil, err
	}
	if c.IPAM.Type == HostLocal {
		return guard(func() (*types100.Result, error) { return r.addLocal(c) })
	}
	return r.execAdd(ctx, c)
}

// Del releases the addresses. When there are none it succeeds. A configuration that says
// of no type, or of host-local's that names no range of addresses, is of a network that is
// no more: what host-local has under its name is released. (The stock plugin fails there.)
func Del(ctx context.Context, r Request) error {
	c, err := r.decode(false)
	if err != nil {
		return err
	}
	if c.IPAM.Type == HostLocal {
		_, err := guard(func() (none, error) { return none{}, r.delLocal(c) })
		return err
	}
	return r.exec(ctx, c, "DEL", r.Config)
}

// Check fails if the interface has no addresses. It needs cniVersion 0.4.0, and an
// executed plugin needs prevResult in the configuration.
func Check(ctx context.Context, r Request) error {
	c, err := r.decode(true)
	if err != nil {
		return err
	}
	if ok, _ := version.GreaterThanOrEqualTo(c.version, "0.4.0"); !ok {
		return types.NewError(types.ErrIncompatibleCNIVersion, "config version does not allow CHECK", "")
	}
	if c.IPAM.Type == HostLocal {
		_, err := guard(func() (none, error) { return none{}, r.checkLocal(c) })
		return err
	}
	return r.exec(ctx, c, "CHECK", r.Config)
}

// GC releases the addresses of all attachments to the network but the valid ones; those
// of namespaces made ahead must be among them. Of the request only Config, Path and Args
// are used, and of no type is as for Del. An executed plugin is asked only if the
// configuration's cniVersion is 1.1.0 or higher, as GC is new in that version.
func GC(ctx context.Context, r Request, valid []types.GCAttachment) error {
	c, err := decode(r.Config, false)
	if err != nil {
		return err
	}
	if c.IPAM.Type == HostLocal {
		_, err := guard(func() (none, error) { return none{}, collect(c, valid) })
		return err
	}
	if ok, _ := version.GreaterThanOrEqualTo(c.version, "1.1.0"); !ok {
		return nil
	}
	config, err := withAttachments(r.Config, valid)
	if err != nil {
		return err
	}
	r.ContainerID, r.IfName, r.NetNS = "", "", ""
	return r.exec(ctx, c, "GC", config)
}

// Status fails if the plugin has no address to give, as far as it can tell: one that runs
// in process always has, and one that is executed is asked as for GC.
func Status(ctx context.Context, r Request) error {
	c, err := decode(r.Config, true)
	if err != nil || c.IPAM.Type == HostLocal {
		return err
	}
	if ok, _ := version.GreaterThanOrEqualTo(c.version, "1.1.0"); !ok {
		return nil
	}
	r.ContainerID, r.IfName, r.NetNS = "", "", ""
	return r.exec(ctx, c, "STATUS", r.Config)
}

// conf is what is common to all types.
type conf struct {
	Name    string `json:"name"`
	version string
	IPAM    struct {
		Type    string `json:"type"`
		DataDir string `json:"dataDir"`
	} `json:"ipam"`
}

// decode checks a request in the order of the CNI library, for the same codes. One that
// ends an attachment needs neither a namespace nor a type.
func (r Request) decode(begins bool) (conf, error) {
	if err := utils.ValidateContainerID(r.ContainerID); err != nil {
		return conf{}, err
	}
	if err := utils.ValidateInterfaceName(r.IfName); err != nil {
		return conf{}, err
	}
	if begins && r.NetNS == "" {
		return conf{}, types.NewError(types.ErrInvalidEnvironmentVariables, "required env variables [CNI_NETNS] missing", "")
	}
	return decode(r.Config, begins)
}

func decode(config []byte, typed bool) (conf, error) {
	var c conf
	if err := json.Unmarshal(config, &c); err != nil {
		return conf{}, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("error unmarshall network config: %v", err), "")
	}
	if c.Name == "" {
		return conf{}, types.NewError(types.ErrInvalidNetworkConfig, "missing network name", "")
	}
	if err := utils.ValidateNetworkName(c.Name); err != nil {
		return conf{}, err
	}
	var err error
	if c.version, err = create.DecodeVersion(config); err != nil {
		return conf{}, types.NewError(types.ErrDecodingFailure, err.Error(), "")
	}
	if err := (&version.Reconciler{}).Check(c.version, version.All); err != nil {
		return conf{}, types.NewError(types.ErrIncompatibleCNIVersion, "incompatible CNI versions", err.Details())
	}
	if c.IPAM.Type == "" && typed {
		return conf{}, types.NewError(types.ErrInvalidNetworkConfig, "the network configuration has no ipam.type", "")
	}
	c.IPAM.Type = cmp.Or(c.IPAM.Type, HostLocal)
	return c, nil
}

// coded gives an error the code of an internal one unless it has its own.
func coded(err error) error {
	var e *types.Error
	switch {
	case err == nil || errors.As(err, &e) && e.Code != types.ErrUnknown:
		return err
	case e != nil:
		return types.NewError(types.ErrInternal, e.Msg, e.Details)
	default:
		return types.NewError(types.ErrInternal, err.Error(), "")
	}
}

type none struct{}

// guard calls code that was written for a process of its own: what it can't stomach (a
// null among the addresses) makes it panic, which must not be the end of this process.
func guard[T any](f func() (T, error)) (result T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("host-local can't take this configuration: %v", p), "")
		}
	}()
	result, err = f()
	return result, coded(err)
}

// withAttachments adds the list of valid ones to a configuration, under the name of the
// specification and the one that the library had first.
func withAttachments(config []byte, valid []types.GCAttachment) ([]byte, error) {
	var c map[string]json.RawMessage
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, err.Error(), "")
	}
	if valid == nil {
		valid = []types.GCAttachment{} // null would read as "not given"
	}
	list, err := json.Marshal(valid)
	if err != nil {
		return nil, types.NewError(types.ErrInternal, err.Error(), "")
	}
	c["cni.dev/valid-attachments"], c["cni.dev/attachments"] = list, list
	out, err := json.Marshal(c)
	if err != nil {
		return nil, types.NewError(types.ErrInternal, err.Error(), "")
	}
	return out, nil
}

// searchPath is CNI_PATH.
func (r Request) searchPath() string { return strings.Join(r.Path, ":") }
