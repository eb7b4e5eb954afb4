package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"

	"github.com/peregrine-dev/peregrine/netplugin/priority"
)

// mostOwner is how long the name of an owner may be, in bytes.
const mostOwner = 128

// reserveRequest is the CONFIG of protocol.Reserve.
type reserveRequest struct {
	ContainerID string          `json:"containerID"`
	IfName      string          `json:"ifname,omitempty"`
	Class       *priority.Class `json:"class"`
	Owner       string          `json:"owner"`
	TTL         uint32          `json:"ttl,omitempty"` // seconds; 0 is for ever
}

// releaseRequest is the CONFIG of protocol.Release.
type releaseRequest struct {
	ContainerID string `json:"containerID"`
	Owner       string `json:"owner"`
}

// readReserve reads what RESERVE asks for. Its errors are [types.Error], as those of all that
// reads requests.
func (r *Request) readReserve(config []byte) error {
	var q reserveRequest
	if err := readStrictly(config, &q); err != nil {
		return err
	}
	if q.Class == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "the reservation has no class", "use high, normal or low")
	}
	r.reservation = Reservation{ContainerID: q.ContainerID, IfName: q.IfName, Class: *q.Class, Owner: q.Owner}
	r.ttl = time.Duration(q.TTL) * time.Second
	return r.reservation.validate()
}

func (r *Request) readRelease(config []byte) error {
	var q releaseRequest
	if err := readStrictly(config, &q); err != nil {
		return err
	}
	r.reservation = Reservation{ContainerID: q.ContainerID, Owner: q.Owner}
	return r.reservation.validate()
}

// readStrictly reads one object without a key that into doesn't have.
func readStrictly(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = errors.New("there is more behind the object")
		}
	}
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, "read the reservation", err.Error())
	}
	return nil
}

// validate refuses what no container, interface or owner can be called.
func (r *Reservation) validate() error {
	if err := utils.ValidateContainerID(r.ContainerID); err != nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "containerID of the reservation: "+err.Msg, err.Details)
	}
	if r.IfName != "" {
		if err := utils.ValidateInterfaceName(r.IfName); err != nil {
			return types.NewError(types.ErrInvalidNetworkConfig, "ifname of the reservation: "+err.Msg, err.Details)
		}
	}
	unprintable := func(c rune) bool { return !unicode.IsPrint(c) }
	if r.Owner == "" || len(r.Owner) > mostOwner || !utf8.ValidString(r.Owner) || strings.ContainsFunc(r.Owner, unprintable) {
		return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("%.40q is no owner of a reservation", r.Owner),
			fmt.Sprintf("want 1 to %d bytes of printable text", mostOwner))
	}
	return nil
}
