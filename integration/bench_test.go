package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/integration/bench"
	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
)

// TestBenchShim runs the quick benchmark of the shim: all rows are there, in time.
func TestBenchShim(t *testing.T) {
	quickBench(t, "shim", []string{
		"start-vs-runc", "start-vs-crun", "start-vs-floor", "start-above-floor-vs-runc", "start-above-floor-vs-crun",
		"delete-vs-runc", "exec-vs-runc", "exec-to-exit-vs-runc", "burst-8-vs-crun", "burst-32-vs-runc",
		"cold-vs-crun", "ctr-run-vs-runc", "memory-per-part",
	})
}

// TestBenchNet is the same of the network plugin.
func TestBenchNet(t *testing.T) {
	quickBench(t, "net", []string{
		"cni-add", "cni-add-agent", "cni-del", "attach-from-pool", "cni-add-parallel", "cni-add-1000",
		"pingpong-bridge", "pingpong-overlay", "tcp-overlay",
		"cpu-per-packet", "cpu-per-packet-vs-host", "tcp-stream", "tcp-rr", "udp-rr",
		"prio-latency-avg", "prio-latency-p99", "prio-p99-vs-idle", "low-delivered", "low-delivered-busy",
		"memcached-p99", "web-serving",
	})
}

// TestBenchPlasma measures what needs containers, but for the rows of many of them; the others are
// for the tests of package bench.
func TestBenchPlasma(t *testing.T) {
	quickBench(t, "plasma", []string{
		"profile-per-message", "profile-throughput", "call-same-container", "call-same-node", "calls-per-second",
		"move-pause-1KiB", "move-pause-1MiB", "hot-spot-to-move/polling", "hot-spot-to-move/event-driven", "scale-out-to-serving",
	}, "--rows", "profile-per-message,calls-per-second,move-pause-1KiB,hot-spot-to-move,scale-out-to-serving")
}

func quickBench(t *testing.T, name string, want []string, more ...string) {
	t.Helper()
	pooltest.NeedRoot(t)
	leaktest.Check(t)
	file := filepath.Join(t.TempDir(), "rows.json")
	began := time.Now()
	out, err := exec.CommandContext(t.Context(), bin+"/peregrine", append(append([]string{"bench", "--quick", "--json", file}, more...), name)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// It ends within 50 s where a first round of everything does.
	if took := time.Since(began); took > 5*time.Minute {
		t.Errorf("a quick run took %s", took)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var rows []bench.Row
	if err := json.Unmarshal(text, &rows); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range rows {
		names = append(names, r.Name)
		if r.N == 0 || r.Ours <= 0 || r.Ratio <= 0 {
			t.Errorf("%s is %v, %v times better, of %d samples", r.Name, r.Ours, r.Ratio, r.N)
		}
	}
	if !slices.Equal(names, want) {
		t.Errorf("rows are %q, want %q", names, want)
	}
	nothingLeft(t)
}
