package bench

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/internal/netlab"
	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
)

// TestFastRows makes rows of samples: each is of what its name says, and the phases have
// all of them.
func TestFastRows(t *testing.T) {
	s := samples{}
	for _, way := range []struct {
		name  string
		value float64
	}{{falcon, 2}, {slow, 8}, {host, 3}} {
		for _, what := range []string{
			"cpu-per-packet", "cpu-sending", "tcp-stream", "tcp-rr", "udp-rr", "prio-avg", "prio-p99", "prio-lost", "idle-p99", "flooded",
			"delivered", "delivered-busy", "memcached-p99", "memcached-median", "memcached-delivered", "web-serving", "web-delivered",
		} {
			s.add(what, way.name, way.value)
		}
	}
	s["idle-p99"][falcon] = Series{1}
	want := map[string]float64{
		"cpu-per-packet": 4, "cpu-per-packet-vs-host": 1.5,
		"tcp-stream": .25, "tcp-rr": .25, "udp-rr": .25,
		"prio-latency-avg": 4, "prio-latency-p99": 4, "prio-p99-vs-idle": .5, "low-delivered": .25, "low-delivered-busy": .25,
		"memcached-p99": 4, "web-serving": .25,
	}
	rows := fastRows(s)
	var names []string
	for _, r := range rows {
		names = append(names, r.Name)
		if ratio, ok := want[r.Name]; !ok || math.Abs(r.Ratio-ratio) > 1e-9 {
			t.Errorf("the ratio of %s is %v, want %v", r.Name, r.Ratio, ratio)
		}
		if strings.Contains(r.Note, "%!") || strings.Contains(r.Note, " - ") {
			t.Errorf("the note of %s lacks something: %s", r.Name, r.Note)
		}
	}
	if len(rows) != len(want) {
		t.Errorf("%d rows, want %d", len(rows), len(want))
	}
	var ofPhases []string
	for _, p := range new(netBench).fastPhases() {
		ofPhases = append(ofPhases, p.rows...)
	}
	if !slices.Equal(names, ofPhases) {
		t.Errorf("phases have the rows %q, want %q", ofPhases, names)
	}
	if _, err := json.Marshal(rows); err != nil {
		t.Error(err)
	}
}

// TestKnownRows: all rows may be asked for, and no others.
func TestKnownRows(t *testing.T) {
	b := &netBench{}
	phases := append(b.phases(), b.fastPhases()...)
	if err := known([]string{"cni-add", "udp-rr"}, phases); err != nil {
		t.Error(err)
	}
	if err := known([]string{"udp-rr", "udp"}, phases); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), `"udp"`) {
		t.Errorf("an unknown row: %v", err)
	}
	for _, tt := range []struct {
		asked []string
		want  bool
	}{{nil, true}, {[]string{"udp-rr"}, true}, {[]string{"cni-add"}, false}} {
		if got := (Options{Rows: tt.asked}).wants(rowsOfLoads...); got != tt.want {
			t.Errorf("with the rows %q loads are wanted: %v", tt.asked, got)
		}
	}
}

func TestAfter(t *testing.T) {
	const rate = burst * 1000 // a burst each millisecond
	now := time.Unix(1000, 0)
	for name, tt := range map[string]struct{ due, want time.Time }{
		"in time":    {now, now.Add(time.Millisecond)},
		"a bit late": {now.Add(-5 * time.Millisecond), now.Add(-4 * time.Millisecond)},
		"too late":   {now.Add(-time.Second), now},
		"the first":  {time.Time{}, now},
	} {
		if got := after(tt.due, now, rate); !got.Equal(tt.want) {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

func TestMean(t *testing.T) {
	if m := (Series{1, 2, 6}).mean(); m != 3 {
		t.Errorf("the mean is %v, want 3", m)
	}
}

// TestCacheAnswers feeds answers in pieces of every size.
func TestCacheAnswers(t *testing.T) {
	value := []byte(valueHead + strings.Repeat("v", valueSize) + "\r\nEND\r\n")
	text := slices.Concat(value, stored, value)
	for size := 1; size <= len(text); size++ {
		c := &cacheConn{awaited: []request{{}, {set: true}, {}}}
		var done []request
		for piece := range slices.Chunk(text, size) {
			more, err := c.take(piece)
			if err != nil {
				t.Fatalf("in pieces of %d bytes: %v", size, err)
			}
			done = append(done, more...)
		}
		if len(done) != 3 || done[0].set || !done[1].set || done[2].set {
			t.Fatalf("in pieces of %d bytes: answered are %v", size, done)
		}
	}
	for name, answer := range map[string]string{"a miss": "END\r\n", "an error": "SERVER_ERROR out of memory\r\n"} {
		if _, err := (&cacheConn{awaited: []request{{}}}).take([]byte(answer + "      ")); err == nil {
			t.Errorf("%s is no error", name)
		}
	}
	if _, err := (&cacheConn{}).take(stored); err == nil {
		t.Error("an answer that nobody asked for is no error")
	}
	if n := len(set(1)) - len(set(99_999_999)); n != 0 {
		t.Errorf("requests differ in size by %d", n)
	}
}

func TestRequests(t *testing.T) {
	const said = "  2 requests in 1.00s, 1KB read\nRequests/sec:   1234.50\nTransfer/sec:      1.0MB\n"
	if rate, err := requests([]byte(said)); err != nil || rate != 1234.5 {
		t.Errorf("the rate is %v: %v", rate, err)
	}
	for _, bad := range []string{"", "  Non-2xx or 3xx responses: 7\n" + said} {
		if _, err := requests([]byte(bad)); err == nil {
			t.Errorf("%q is no error", bad)
		}
	}
}

// TestLoads has two containers' loads run between two namespaces that a wire joins.
func TestLoads(t *testing.T) {
	pooltest.NeedRoot(t)
	a, b := lodger{newNS(t), nearAddress}, lodger{newNS(t), farAddress}
	if err := wire(a.NS, b.NS); err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func(a, b lodger) (int, int, error){"UDP": datagrams, "TCP": connection} {
		near, far, err := open(a, b)
		if err != nil {
			t.Fatal(err)
		}
		took, err := trips(near, far, farCore, 1, 20*time.Millisecond)
		if err != nil || len(took.Series) < 10 || took.lost > 0 {
			t.Errorf("round trips by %s: %d, %d lost: %v", name, len(took.Series), took.lost, err)
		}
		if name == "TCP" {
			rate, err := streamed(near, far, 20*time.Millisecond)
			if err != nil || rate < 1 {
				t.Errorf("a stream has %v MiB/s: %v", rate, err)
			}
		}
		closed(t, near, far)
	}
	near, far, err := datagrams(a, b)
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, near, far)
	if err := sink(far); err != nil {
		t.Fatal(err)
	}
	g, err := generate(near)
	if err != nil {
		t.Fatal(err)
	}
	f := &flow{generator: g, rate: 10_000}
	if err := during(t.Context(), 0, []*flow{f}, func() error { return wait(t.Context(), 50*time.Millisecond) }); err != nil {
		t.Fatal(err)
	}
	got, err := sunk(far)
	if err != nil || got != f.sent.Load() || got < burst || got > 100*burst {
		t.Errorf("%d packets were sent, and %d arrived: %v", f.sent.Load(), got, err)
	}
}

func newNS(t *testing.T) *netlab.NS {
	t.Helper()
	ns, err := netlab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

func closed(t *testing.T, sockets ...int) {
	t.Helper()
	for _, fd := range sockets {
		if err := unix.Close(fd); err != nil {
			t.Error(err)
		}
	}
}
