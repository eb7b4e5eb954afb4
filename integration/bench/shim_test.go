package bench

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"

	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Main(m)) }

// TestTurn counts who comes first and who follows whom.
func TestTurn(t *testing.T) {
	for _, names := range [][]string{{"a", "b"}, {"a", "b", "c", "d"}} {
		first, pairs := map[string]int{}, map[string]int{}
		cycle := 2 * len(names)
		for round := range cycle {
			order := turn(round, names)
			if got := slices.Sorted(slices.Values(order)); !slices.Equal(got, names) {
				t.Fatalf("round %d has %q", round, order)
			}
			first[order[0]]++
			for i := range order[1:] {
				pairs[order[i]+order[i+1]]++
			}
		}
		for _, name := range names {
			if first[name] != 2 {
				t.Errorf("%s is first in %d of %d rounds, want 2", name, first[name], cycle)
			}
		}
		for pair, n := range pairs {
			if back := pairs[pair[1:]+pair[:1]]; back != n {
				t.Errorf("%s comes %d times, the reverse %d times", pair, n, back)
			}
		}
	}
}

// TestShimRows makes rows of samples and checks those that are more than medians.
func TestShimRows(t *testing.T) {
	s := samples{}
	for i := range 3 {
		drift := float64(i) // of the machine, which all feel
		for name, start := range map[string]float64{flashcube: 20, runc: 110, crun: 70, floor: 15} {
			s.add("start", name, start+drift)
		}
		for _, what := range []string{"delete", "exec", "exec-to-exit", "cold", "ctr-run", "memory", "burst-8", "burst-32"} {
			for _, name := range []string{flashcube, runc, crun} {
				s.add(what, name, 1)
			}
		}
		s.add("burst-8-parts", flashcube, 4)
		s.add("burst-32-parts", flashcube, 8)
	}
	rows := map[string]Row{}
	for _, r := range shimRows(s) {
		rows[r.Name] = r
		if r.N != 3 || math.IsNaN(r.Ratio) {
			t.Errorf("%s has %d samples and ratio %v", r.Name, r.N, r.Ratio)
		}
	}
	for name, want := range map[string]float64{
		"start-vs-runc": 111.0 / 21, "start-vs-floor": 16.0 / 21,
		"start-above-floor-vs-runc": 95.0 / 5, "start-above-floor-vs-crun": 55.0 / 5,
	} {
		if got := rows[name].Ratio; math.Abs(got-want) > 1e-9 {
			t.Errorf("%s is %v times better, want %v", name, got, want)
		}
	}
	if _, err := json.Marshal(shimRows(s)); err != nil {
		t.Error(err)
	}
}

func TestProcNumber(t *testing.T) {
	if pid, err := parent(os.Getpid()); err != nil || pid != os.Getppid() {
		t.Errorf("the parent is %d, %v; want %d", pid, err, os.Getppid())
	}
	if kib, err := pss(os.Getpid()); err != nil || kib < 100 {
		t.Errorf("this process takes %v KiB, %v", kib, err)
	}
	if _, err := procNumber("/proc/self/status", "NoSuchKey"); err == nil {
		t.Error("a key that isn't there has a number")
	}
}

// TestWithoutUnified looks at what is mounted before, meanwhile and after.
func TestWithoutUnified(t *testing.T) {
	mounts := func() (points []string, unified bool) {
		infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(cgroupRoot))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range infos {
			points = append(points, m.Mountpoint+" "+m.FSType)
			if strings.HasSuffix(m.Mountpoint, "/unified") {
				unified = true
			}
		}
		slices.Sort(points)
		_, err = os.Stat(filepath.Join(cgroupRoot, "unified"))
		return points, unified || err == nil
	}
	before, hybrid := mounts()
	restore, err := withoutUnified()
	if err != nil {
		t.Fatal(err)
	}
	if _, still := mounts(); still {
		t.Error("cgroup v2 is still beside v1")
	}
	for _, name := range []string{"memory", "cpu", "devices"} {
		if !hybrid {
			break
		}
		if _, err := os.Stat(filepath.Join(cgroupRoot, name, "cgroup.procs")); err != nil {
			t.Errorf("cgroup v1: %v", err)
		}
	}
	if err := restore(); err != nil {
		t.Fatal(err)
	}
	if after, again := mounts(); !slices.Equal(after, before) || again != hybrid {
		t.Errorf("mounts were %q, are %q", before, after)
	}
}
