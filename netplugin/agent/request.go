package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/netconf"
	"github.com/peregrine-dev/peregrine/netplugin/protocol"
)

// Request is a call of CNI, spec/SPEC.md section 2, or one of the agent's own commands.
type Request struct {
	Command     string
	ContainerID string
	IfName      string
	NetNS       string   // path of the namespace; "" if the runtime has none any more
	Namespace   *os.File // the same, open; nil if it could not be opened. It is the caller's.
	Args        string
	Path        []string // where plugins are, CNI_PATH
	Conf        *netconf.Conf

	reservation Reservation   // of RESERVE; RELEASE has the container and the owner
	ttl         time.Duration // of RESERVE; 0 is for ever
	limit       int           // of FLOWS
}

// NewRequest reads a request of the protocol. Its errors are [types.Error].
func NewRequest(text []byte, namespace *os.File) (*Request, error) {
	if len(text) > protocol.MaxRequest {
		return nil, types.NewError(types.ErrDecodingFailure, "the network configuration is too large", fmt.Sprintf("the limit is %d bytes", protocol.MaxRequest))
	}
	v, config, err := protocol.Decode(text)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "read the request", err.Error())
	}
	args, class := takeArg(v["CNI_ARGS"], priorityArg)
	r := &Request{
		Command: v["CNI_COMMAND"], ContainerID: v["CNI_CONTAINERID"], IfName: v["CNI_IFNAME"],
		NetNS: v["CNI_NETNS"], Namespace: namespace, Args: args, Path: filepath.SplitList(v["CNI_PATH"]),
	}
	if err := r.validate(); err != nil {
		return nil, err
	}
	switch r.Command {
	case protocol.Report, protocol.Reservations, protocol.Pairs:
		return r, nil
	case protocol.Flows:
		return r, r.readFlows(config)
	case protocol.Reserve:
		return r, r.readReserve(config)
	case protocol.Release:
		return r, r.readRelease(config)
	}
	if r.Conf, err = netconf.Parse(config); err != nil {
		return r, err
	}
	if err := r.readMAC(); err != nil {
		return r, err
	}
	return r, r.readPriority(class)
}

// priorityArg is the class that a container asks for, in CNI_ARGS.
const priorityArg = "PEREGRINE_PRIORITY"

// takeArg takes a pair out of CNI_ARGS, which may be empty: IPAM plugins refuse pairs that
// they don't know.
func takeArg(args, name string) (rest, value string) {
	var others []string
	for pair := range strings.SplitSeq(args, ";") {
		if text, ok := strings.CutPrefix(pair, name+"="); ok {
			value = text
			continue
		}
		others = append(others, pair)
	}
	return strings.Join(others, ";"), value
}

// readPriority lets what the container asks for be the default of its class; rules of the
// configuration are stronger. Only ADD reads it: what it refused, DEL must be able to take
// away.
func (r *Request) readPriority(arg string) error {
	if r.Command != "ADD" {
		return nil
	}
	class, wished, err := r.Conf.PriorityWish(arg)
	if wished {
		r.Conf.Priority.Default = class
	}
	return err
}

// readMAC takes the MAC that is asked for by the older ways, unless runtimeConfig has one:
// args.cni.mac of the configuration, else MAC of CNI_ARGS.
func (r *Request) readMAC() error {
	if r.Conf.RuntimeConfig.MAC != nil {
		return nil
	}
	var args struct {
		CNI struct {
			MAC netconf.MAC `json:"mac"`
		} `json:"cni"`
	}
	if err := json.Unmarshal(r.Conf.Args, &args); r.Conf.Args != nil && err != nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "read args of the network configuration", err.Error())
	}
	r.Conf.RuntimeConfig.MAC = args.CNI.MAC
	for pair := range strings.SplitSeq(r.Args, ";") {
		if text, ok := strings.CutPrefix(pair, "MAC="); ok && r.Conf.RuntimeConfig.MAC == nil {
			if err := r.Conf.RuntimeConfig.MAC.UnmarshalText([]byte(text)); err != nil {
				return types.NewError(types.ErrInvalidEnvironmentVariables, "MAC in CNI_ARGS", err.Error())
			}
		}
	}
	return nil
}

func (r *Request) validate() error {
	if r.own() {
		return nil
	}
	switch r.Command {
	case "STATUS":
		return nil
	case "GC":
		return r.needPath()
	case "ADD", "CHECK", "DEL":
	default:
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_COMMAND is %q", r.Command), "known are ADD, CHECK, DEL, GC, STATUS, VERSION")
	}
	if err := utils.ValidateContainerID(r.ContainerID); err != nil {
		// The specification has a code for a container that isn't known, but not for
		// a variable that is missing.
		return types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_CONTAINERID: "+err.Msg, err.Details)
	}
	if err := utils.ValidateInterfaceName(r.IfName); err != nil {
		return types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_IFNAME: "+err.Msg, err.Details)
	}
	if r.NetNS == "" && r.Command != "DEL" {
		return types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_NETNS is missing", "")
	}
	return r.needPath()
}

// own tells whether the command is none of CNI's.
func (r *Request) own() bool {
	switch r.Command {
	case protocol.Report, protocol.Reserve, protocol.Release, protocol.Reservations, protocol.Flows, protocol.Pairs:
		return true
	}
	return false
}

func (r *Request) needPath() error {
	if len(r.Path) == 0 {
		return types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_PATH is missing", "")
	}
	return nil
}

// inode identifies the request's network namespace. It fails for what is none, and for
// the agent's own, whose interfaces are the node's.
func (r *Request) inode() (uint64, error) {
	var stat, own unix.Stat_t
	if err := unix.Fstat(int(r.Namespace.Fd()), &stat); err != nil {
		return 0, types.NewError(types.ErrInvalidNetNS, "look at CNI_NETNS "+r.NetNS, err.Error())
	}
	// NS_GET_NSTYPE, ioctl_ns(2).
	const getType = 0xb703
	kind, err := unix.IoctlRetInt(int(r.Namespace.Fd()), getType)
	if err != nil || kind != unix.CLONE_NEWNET {
		return 0, types.NewError(types.ErrInvalidNetNS, "CNI_NETNS "+r.NetNS+" is no network namespace", "")
	}
	if err := unix.Stat("/proc/thread-self/ns/net", &own); err != nil {
		return 0, err
	}
	if stat.Ino == own.Ino && stat.Dev == own.Dev {
		return 0, types.NewError(types.ErrInvalidNetNS, "CNI_NETNS "+r.NetNS+" is the node's own network namespace", "a container of the host's network needs no plugin")
	}
	return stat.Ino, nil
}
