package fastpath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/containerd/errdefs"
)

// Features are what this kernel has of what the programs use. A nil error is "it has".
type Features struct {
	Programs     error // tc programs
	RedirectPeer error // bpf_redirect_peer, Linux 5.10
	CheckMTU     error // bpf_check_mtu, Linux 5.12
	TCX          error // tcx, Linux 6.6; else clsact
	XDP          error
	CPUMap       error // XDP's redirection to another core's queue
}

// Probe asks the kernel. It makes and takes away objects of its own only.
func Probe() Features {
	return Features{
		Programs:     probed("programs at tc's hooks", features.HaveProgramType(ebpf.SchedCLS)),
		RedirectPeer: probed("bpf_redirect_peer", features.HaveProgramHelper(ebpf.SchedCLS, asm.FnRedirectPeer)),
		CheckMTU:     probed("bpf_check_mtu", features.HaveProgramHelper(ebpf.SchedCLS, asm.FnCheckMtu)),
		TCX:          probed("tcx", probeTCX()),
		XDP:          probed("XDP", features.HaveProgramType(ebpf.XDP)),
		CPUMap:       probed("cpumap", features.HaveMapType(ebpf.CPUMap)),
	}
}

// probeTCX asks what is attached to the loopback interface, the first of each namespace.
func probeTCX() error {
	_, err := link.QueryPrograms(link.QueryOptions{Target: 1, Attach: ebpf.AttachTCXIngress})
	return err
}

func probed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("the kernel has no %s: %w: %w", what, errdefs.ErrNotImplemented, err)
}

// shortcut is why there can be none.
func (f Features) shortcut() error {
	return errors.Join(f.Programs, f.RedirectPeer, f.CheckMTU)
}
