package bench

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"
)

func TestCompare(t *testing.T) {
	for name, tt := range map[string]struct {
		unit       Unit
		ours, peer Series
		want       Row
	}{
		"less is better": {
			Milliseconds,
			Series{3, 1, 2},
			Series{20, 10, 40},
			Row{Ours: 2, Peer: 20, Ratio: 10, N: 3, P99Ours: 3, P99Peer: 40},
		},
		"more is better": {
			PerSecond,
			Series{100, 300, 200},
			Series{100, 50, 100},
			Row{Ours: 200, Peer: 100, Ratio: 2, N: 3, P99Ours: 100, P99Peer: 50},
		},
		"an even number, and fewer of the peer": {
			Milliseconds,
			Series{1, 2, 3, 6},
			Series{5, 5},
			Row{Ours: 2.5, Peer: 5, Ratio: 2, N: 2, P99Ours: 6, P99Peer: 5},
		},
	} {
		t.Run(name, func(t *testing.T) {
			tt.want.Name, tt.want.Unit, tt.want.PeerName, tt.want.Note = "row", tt.unit.Name, "peer", "note"
			if got := Compare("row", tt.unit, tt.ours, "peer", tt.peer, "note"); got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
	if x := (Series{}).Median(); !math.IsNaN(x) {
		t.Errorf("the median of nothing is %v", x)
	}
}

func TestRounds(t *testing.T) {
	count := func(r *rounds) (n int) {
		for r.next() {
			n++
		}
		return n
	}
	now := time.Now()
	if n := count(Options{}.rounds(7, now)); n != 7 {
		t.Errorf("%d rounds, want 7", n)
	}
	if n := count(Options{Quick: true}.rounds(7, now.Add(-time.Hour))); n != 1 {
		t.Errorf("%d rounds with no time left, want 1", n)
	}
	if n := count(Options{Quick: true}.rounds(7, now.Add(time.Hour))); n != 7 {
		t.Errorf("%d rounds with time enough, want 7", n)
	}
}

func TestPrint(t *testing.T) {
	var out bytes.Buffer
	row := Compare("first-write", Milliseconds, Series{0.2}, "overlayfs", Series{1300}, "")
	if err := Print(&out, []Row{row}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"first-write", "0.200", "1300", "6500x", "overlayfs"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
}
