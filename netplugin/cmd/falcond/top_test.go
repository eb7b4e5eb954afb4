package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/peregrine-dev/peregrine/netplugin/agent"
	"github.com/peregrine-dev/peregrine/netplugin/endpoint"
	"github.com/peregrine-dev/peregrine/netplugin/pipeline"
)

func flow(port uint16, class, path, reason string, packets, bytes uint64) agent.Flow {
	return agent.Flow{
		VNI: 1, Protocol: "udp", Direction: "in", Class: class, Path: path, Reason: reason, Packets: packets, Bytes: bytes,
		Source: netip.AddrPortFrom(netip.MustParseAddr("10.88.2.2"), port), Destination: netip.MustParseAddrPort("10.88.1.2:7"),
	}
}

func samples() (before, now sample) {
	at := time.Now()
	before = sample{
		at: at, packets: 1000, stat: pipeline.Stat{0: {Busy: 100, Idle: 100}, 1: {}},
		flows: []agent.Flow{flow(1, "high", "fast", "", 10, 1000), flow(2, "low", "slow", "new", 500, 5000), flow(3, "low", "fast", "", 50, 50), flow(5, "low", "fast", "", 90, 90)},
	}
	now = sample{
		at: at.Add(2 * time.Second), packets: 3000, stat: pipeline.Stat{0: {Busy: 200, Idle: 200}, 1: {Busy: 1, Idle: 199}},
		flows: []agent.Flow{
			flow(2, "low", "slow", "new", 700, 5000+250_000), flow(1, "high", "fast", "", 410, 1000+1_000_000),
			flow(3, "low", "fast", "", 50, 50),           // has stopped
			flow(4, "low", "slow", "settling", 20, 2000), // is new
			flow(5, "low", "fast", "", 6, 600),           // was forgotten, and began anew
		},
	}
	return before, now
}

func TestCompare(t *testing.T) {
	v := compare(samples())
	var order []uint16
	for _, f := range v.Flows {
		order = append(order, f.Source.Port())
	}
	if !reflect.DeepEqual(order, []uint16{1, 2, 4, 5}) || v.Flows[0].PacketsPerSecond != 200 || v.Flows[0].BitsPerSecond != 4e6 || v.Flows[3].PacketsPerSecond != 3 {
		t.Errorf("%+v", v.Flows)
	}
	if want := []rate{{"high", 1, 200, 4e6}, {"low", 3, 113, 1e6 + 8000 + 2400}}; !reflect.DeepEqual(v.Classes, want) {
		t.Errorf("%+v", v.Classes)
	}
	// 1.01 s of CPU for 2000 packets.
	if want := []core{{0, 500}, {1, 5}}; !reflect.DeepEqual(v.Cores, want) || v.Handled != 1000 || v.CPUBound != 505_000 {
		t.Errorf("%+v", v)
	}
	before, now := samples()
	now.packets = before.packets
	if v := compare(before, now); v.CPUBound != 0 {
		t.Errorf("%+v", v)
	}
}

func TestPrintView(t *testing.T) {
	v := compare(samples())
	v.Off = "why"
	got := table(func(w *tabwriter.Writer) { printView(w, v, 2) })
	const want = `flows are not counted, the shortcut is off: why
SOURCE       DESTINATION  PROTOCOL  DIRECTION  CLASS  PATH       PACKETS/S  BITS/S
10.88.2.2:1  10.88.1.2:7  udp       in         high   fast       200        4.0 M
10.88.2.2:2  10.88.1.2:7  udp       in         low    slow: new  100        1.0 M

CLASS  FLOWS  PACKETS/S  BITS/S
high   1      200        4.0 M
low    3      113        1.0 M

CORE  BUSY
0     50 %
1     1 %

1000 times a second a packet, or what was put together of several, was handled; at most 505000 ns of CPU each, if the node did nothing else
`
	if got != want {
		t.Errorf("printed\n%s, want\n%s", got, want)
	}
}

// TestWatch shows each interval, and ends with its context.
func TestWatch(t *testing.T) {
	before, now := samples()
	var taken, shown int
	take := func(context.Context) (sample, error) {
		taken++
		if taken == 1 {
			return before, nil
		}
		return now, nil
	}
	show := func(view) error { shown++; return nil }
	if err := watch(t.Context(), time.Millisecond, true, take, show); err != nil || taken != 2 || shown != 1 {
		t.Errorf("once: %v, %d, %d", err, taken, shown)
	}
	ctx, cancel := context.WithCancel(t.Context())
	taken, shown = 0, 0
	err := watch(ctx, time.Millisecond, false, take, func(view) error {
		if shown++; shown == 3 {
			cancel()
		}
		return nil
	})
	if err != nil || shown != 3 {
		t.Errorf("until it is done: %v, %d", err, shown)
	}
	broken := errors.New("gone")
	if err := watch(t.Context(), time.Millisecond, false, take, func(view) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

// TestScreen writes a line of JSON for each view, or a table where it is no terminal.
func TestScreen(t *testing.T) {
	for _, asJSON := range []bool{true, false} {
		file, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		s := screen{to: file, json: asJSON}
		for range 2 {
			if err := s.show(compare(samples())); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		if !asJSON {
			if strings.Count(string(text), "10.88.2.2:4") != 2 || strings.Contains(string(text), "\x1b") {
				t.Errorf("%q", text)
			}
			continue
		}
		for line := range strings.Lines(string(text)) {
			var v view
			if err := json.Unmarshal([]byte(line), &v); err != nil || len(v.Flows) != 4 || v.Flows[0].Class != "high" || v.Seconds != 2 {
				t.Errorf("%v, %s", err, line)
			}
		}
	}
}

// TestTopAndPairs say what to do where nobody counts flows.
func TestTopAndPairs(t *testing.T) {
	root, err := os.MkdirTemp("", "f-") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	falcond := func(args ...string) error {
		return app().RunContext(t.Context(), append([]string{"falcond", "--root", root}, args...))
	}
	for _, args := range []string{"top --once", "pairs"} {
		if err := falcond(strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), "start falcond") {
			t.Errorf("%s without an agent: %v", args, err)
		}
	}
	serveRecord(t, root, endpoint.Record{ContainerID: "c", IfName: "eth0", Complete: true})
	for _, args := range []string{"top --once", "top --once --json", "pairs --json"} {
		err := falcond(strings.Fields(args)...)
		if err == nil || !strings.Contains(err.Error(), "are not in the kernel") || strings.Contains(err.Error(), "start falcond") {
			t.Errorf("%s: %v", args, err)
		}
	}
	for _, args := range []string{"top --interval 1ms", "top --limit 0", "top c"} {
		if err := falcond(strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), "want --interval") {
			t.Errorf("%s: %v", args, err)
		}
	}
}
