package part

import (
	_ "embed"
	"encoding/json"
	"fmt"

	"github.com/peregrine-dev/peregrine/shim/oci"
)

// usual is what containerd's client makes for a container without wishes.
//
//go:embed usual.json
var usual []byte

// rehearse goes through the deciding once, so that what Go does for the first time, and
// the pages it needs, are done with when it counts. To do the same for the messages of
// the service would cost each part half a megabyte, and gained nothing measurable.
func rehearse() error {
	spec, err := oci.Decode(usual)
	if err != nil {
		return fmt.Errorf("rehearse: %w", err)
	}
	c, err := oci.Compile("rehearsal", spec)
	if err != nil {
		return fmt.Errorf("rehearse: %w", err)
	}
	if _, err = json.Marshal(c.Plan); err != nil {
		return fmt.Errorf("rehearse: %w", err)
	}
	return nil
}
