package main

import (
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"

	"github.com/peregrine-dev/peregrine/integration/noopshim"
)

// TestAnswer decodes what is written by hand with the code that containerd has for it.
func TestAnswer(t *testing.T) {
	if addressVariable != noopshim.AddressVariable {
		t.Errorf("the address is in %s, the server's in %s", addressVariable, noopshim.AddressVariable)
	}
	var result bootapi.BootstrapResult
	if err := proto.Unmarshal([]byte(answer("/run/noop.sock")), &result); err != nil {
		t.Fatal(err)
	}
	if result.Version != 3 || result.Address != "unix:///run/noop.sock" || result.Protocol != "ttrpc" {
		t.Errorf("the answer is %v", &result)
	}
	if found, err := result.FindExtension(&types.MountCapabilities{}); err != nil || !found {
		t.Errorf("MountCapabilities found: %v, %v", found, err)
	}
}
