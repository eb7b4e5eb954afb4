package pipeline

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
)

// minCores is what a node must have: one for interrupts and one for each stage.
const minCores = 4

// maxSet is how many cores the programs have room for, for a stage: SET in maps.h.
const maxSet = 64

// Cores are the cores of each stage, ascending. No core serves two stages and no set is
// empty, so the stages of one flow are on different cores whatever is chosen in each.
type Cores struct {
	Driver []int // what follows the NIC
	VXLAN  []int // what follows the VXLAN device
	Veth   []int // what follows the container's end of a veth
}

// Plan gives cores to stages: all usable ones, or those that are configured. Nil, and a
// sentence for the operator, where there are too few. Neither list needs to be in order.
// Each stage has a core in any three neighbours, because neighbours mostly share a cache;
// one core left over goes to the driver stage and a second to the VXLAN stage: these have
// more to do. A stage has 64 cores at most; those after them stay without.
//
// errdefs.ErrInvalidArgument: the configured cores can't be used.
func Plan(usable, configured []int) (cores *Cores, why string, err error) {
	usable, list := distinct(usable), distinct(configured)
	for _, c := range list {
		if _, ok := slices.BinarySearch(usable, c); !ok {
			return nil, "", fmt.Errorf("CPU %d is offline, isolated or not this agent's; the pipeline can have CPUs %s: %w",
				c, FormatList(usable), errdefs.ErrInvalidArgument)
		}
	}
	if len(list) != 0 && len(list) < 3 {
		return nil, "", fmt.Errorf("the pipeline needs 3 cores or more, one for each stage, and CPUs %s are configured: %w",
			FormatList(list), errdefs.ErrInvalidArgument)
	}
	if len(usable) < minCores {
		return nil, fmt.Sprintf("%s: moving stages costs more CPU than it saves below %d (measured: 2826 ns for a packet on two cores, 1898 ns on one)",
			count(len(usable)), minCores), nil
	}
	if len(list) == 0 {
		list = usable
	}
	list = list[:min(len(list), 3*maxSet)]
	cores = &Cores{}
	for i, c := range list {
		set := []*[]int{&cores.Driver, &cores.VXLAN, &cores.Veth}[i%3]
		*set = append(*set, c)
	}
	return cores, "", nil
}

func count(cores int) string {
	if cores == 1 {
		return "1 core"
	}
	return fmt.Sprintf("%d cores", cores)
}

// All are the cores of all stages, ascending.
func (c *Cores) All() []int { return distinct(slices.Concat(c.Driver, c.VXLAN, c.Veth)) }

// String is for status: "driver 0,3, vxlan 1, veth 2".
func (c *Cores) String() string {
	return fmt.Sprintf("driver %s, vxlan %s, veth %s", FormatList(c.Driver), FormatList(c.VXLAN), FormatList(c.Veth))
}
