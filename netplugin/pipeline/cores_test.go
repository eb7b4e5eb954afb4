package pipeline

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
)

func upTo(n int) []int {
	var cpus []int
	for c := range n {
		cpus = append(cpus, c)
	}
	return cpus
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		usable, configured []int
		want, why          string
	}{
		{nil, nil, "", "0 cores: moving stages costs more CPU than it saves below 4 (measured: 2826 ns for a packet on two cores, 1898 ns on one)"},
		{upTo(1), nil, "", "1 core: moving stages costs more CPU than it saves below 4 (measured: 2826 ns for a packet on two cores, 1898 ns on one)"},
		{upTo(3), upTo(3), "", "3 cores: moving stages costs more CPU than it saves below 4 (measured: 2826 ns for a packet on two cores, 1898 ns on one)"},
		{upTo(4), nil, "driver 0,3, vxlan 1, veth 2", ""},
		{upTo(5), nil, "driver 0,3, vxlan 1,4, veth 2", ""},
		{upTo(4), []int{3, 1, 2, 2}, "driver 1, vxlan 2, veth 3", ""},
		{[]int{9, 8, 2, 3}, nil, "driver 2,9, vxlan 3, veth 8", ""},
		{upTo(1000), upTo(500)[300:305], "driver 300,303, vxlan 301,304, veth 302", ""},
	} {
		cores, why, err := Plan(c.usable, c.configured)
		got := ""
		if cores != nil {
			got = cores.String()
		}
		if got != c.want || why != c.why || err != nil {
			t.Errorf("%v of %v: %q, %q, %v", c.configured, c.usable, got, why, err)
		}
	}
	for _, configured := range [][]int{{7}, {0, 1}, {0, 1, 2, 9}, {-1, 0, 1}} {
		if cores, why, err := Plan(upTo(8), configured); cores != nil || why != "" || !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v, %q, %v", configured, cores, why, err)
		}
	}
}

// Stages of one flow are on different cores, whatever was chosen in each.
func TestNoCoreServesTwoStages(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		usable := random.Perm(64)[:minCores+random.IntN(60)]
		var configured []int
		if random.IntN(2) == 0 {
			configured = usable[:3+random.IntN(len(usable)-2)]
		}
		cores, why, err := Plan(usable, configured)
		if cores == nil || why != "" || err != nil {
			t.Fatal(usable, configured, why, err)
		}
		want := usable
		if configured != nil {
			want = configured
		}
		sets := [][]int{cores.Driver, cores.VXLAN, cores.Veth}
		if all := slices.Concat(sets...); len(all) != len(want) || !slices.Equal(distinct(all), distinct(want)) || !slices.Equal(cores.All(), distinct(want)) {
			t.Fatal(cores, want)
		}
		for i, set := range sets {
			if len(set) == 0 || !slices.IsSorted(set) || i > 0 && (len(set) > len(sets[i-1]) || len(set)+1 < len(sets[0])) {
				t.Fatal(cores)
			}
		}
		flow, load := random.Uint32(), randomLoad(random, usable)
		var chosen []int
		for i, set := range sets {
			if c, _ := Choose(flow, uint32(i), set, load); c != Stay {
				chosen = append(chosen, c)
			}
		}
		if len(distinct(chosen)) != len(chosen) {
			t.Fatal(chosen, cores)
		}
	}
}

func randomLoad(random *rand.Rand, cpus []int) Load {
	l := Load{Core: make(map[int]uint32), Average: random.Uint32N(1001)}
	for _, c := range cpus {
		l.Core[c] = random.Uint32N(1001)
	}
	return l
}

// The programs have room for so many.
func TestStagesHaveTheirMost(t *testing.T) {
	for _, n := range []int{191, 192, 193, 512} {
		cores, _, err := Plan(upTo(n), nil)
		if err != nil || max(len(cores.Driver), len(cores.VXLAN), len(cores.Veth)) != maxSet || len(cores.All()) != min(n, 192) {
			t.Error(n, cores, err)
		}
	}
}
