package firewall

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Supported says why the rules can't be set on this host: nil, or an error that names the
// remedy and is errdefs.ErrNotImplemented, or ErrPermissionDenied without root. It sets all
// rules in a network namespace of its own, which ends with it.
func Supported() error {
	result := make(chan error, 1)
	go func() {
		// The thread ends with the goroutine, locked, and takes the namespace along.
		runtime.LockOSThread()
		result <- probe()
	}()
	return <-result
}

func probe() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("make a network namespace: %w (%w); run as root", errdefs.ErrPermissionDenied, err)
		}
		return fmt.Errorf("make a network namespace: %w (%w)", errdefs.ErrNotImplemented, err)
	}
	f, err := Open()
	if err == nil {
		defer f.Close()
		err = f.try()
	}
	switch {
	case err == nil || errdefs.IsPermissionDenied(err) || errdefs.IsNotImplemented(err):
		return err
	default:
		return fmt.Errorf("%w (%w); the kernel needs nf_tables with inet, bridge, nat, masq and fib", errdefs.ErrNotImplemented, err)
	}
}

// try does everything once with something in each set.
func (f *Firewall) try() error {
	e := Endpoint{
		Link: linkPrefix + "0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1},
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")},
	}
	subnets := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/28"), netip.MustParsePrefix("2001:db8::/64")}
	s := State{
		Port: 4789, VTEPs: []netip.Addr{netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8:1::2")},
		Networks:  []Network{{Bridge: "fb1", Device: "fx1", Subnets: subnets, Cluster: subnets, Masquerade: true}},
		Endpoints: []Endpoint{e},
	}
	if err := f.Replace(s); err != nil {
		return err
	}
	if err := errors.Join(f.Deny(e), f.Allow(e)); err != nil {
		return err
	}
	_, err := f.Drops()
	return errors.Join(err, f.Remove())
}
