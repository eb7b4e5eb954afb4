package overlay

import "fmt"

// A change says what it does, for errors.

func (c deleteLink) String() string { return "delete the link " + c.name }
func (c addBridge) String() string  { return "add the bridge " + c.link.name }
func (c addTunnel) String() string  { return "add the VXLAN device " + c.link.name }
func (c setMAC) String() string {
	return fmt.Sprintf("set the MAC of %s to %v", c.link.name, c.link.mac)
}

func (c setMTU) String() string {
	return fmt.Sprintf("set the MTU of %s to %d", c.link.name, c.link.mtu)
}
func (c release) String() string    { return "release the port " + c.name + " from its bridge" }
func (c setOptions) String() string { return "set the options of the bridge " + c.name }
func (c setUp) String() string      { return "set " + c.name + " up" }

func (c writeSysctl) String() string {
	return fmt.Sprintf("write %s to /proc/sys/%s", c.sysctl.value, c.sysctl.path)
}

func (c deleteAddress) String() string {
	return fmt.Sprintf("take %v from %s", c.address.prefix, c.address.link)
}

func (c addAddress) String() string {
	return fmt.Sprintf("add %v to %s", c.address.prefix, c.address.link)
}
func (c addRoute) String() string     { return "add " + c.route.String() }
func (c replaceRoute) String() string { return "replace " + c.route.String() }
func (c deleteRoute) String() string  { return "delete " + c.route.String() }

func (r deviceRoute) String() string {
	if !r.via.IsValid() {
		return fmt.Sprintf("the unreachable route to %v", r.destination)
	}
	return fmt.Sprintf("the route to %v via %v on %s", r.destination, r.via, r.device)
}

func (c putNeighbour) String() string    { return "put " + c.neighbour.String() }
func (c deleteNeighbour) String() string { return "delete " + c.neighbour.String() }

func (n deviceNeighbour) String() string {
	return fmt.Sprintf("the neighbour %v at %v on %s", n.ip, n.mac, n.device)
}

func (c putFDB) String() string    { return "put " + c.entry.String() }
func (c deleteFDB) String() string { return "delete " + c.entry.String() }

func (e deviceFDB) String() string {
	return fmt.Sprintf("the FDB entry of %v to %v on %s", e.mac, e.node, e.device)
}
