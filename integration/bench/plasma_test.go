package bench

import (
	"strings"
	"testing"

	"github.com/peregrine-dev/peregrine/plasma/apps"
)

// The rows are there, with figures of samples. How good they are is for `peregrine bench`.
func TestPlasma(t *testing.T) {
	rows, err := Plasma(t.Context(), Options{Quick: true, Rows: []string{"vet-100-rules", "max-over-mean"}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range rows {
		names = append(names, r.Name)
		if !(r.Ours > 0) || !(r.Ratio > 0) || r.N == 0 {
			t.Errorf("%+v", r)
		}
	}
	if got := strings.Join(names, ","); got != "vet-100-rules,max-over-mean" {
		t.Errorf("the rows are %s", got)
	}
	if _, err := Plasma(t.Context(), Options{Rows: []string{"nothing"}}); err == nil || !strings.Contains(err.Error(), `no row "nothing"`) {
		t.Errorf("an unknown row: %v", err)
	}
}

// A world is run by its own policy and by others, each seed once.
func TestPlasmaContest(t *testing.T) {
	b := &plasmaBench{Options: Options{Quick: true, Rows: []string{"overload-vs-original"}}}
	c, err := b.contest(t.Context(), "btree", apps.World, true, "original")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.ours) != quickSeeds || len(c.peers["original"]) != quickSeeds {
		t.Fatalf("%d runs of ours, %d of the peer's", len(c.ours), len(c.peers["original"]))
	}
	for i, r := range c.ours {
		if r.Requests == 0 || r.Requests != c.peers["original"][i].Requests {
			t.Errorf("seed %d: %d requests, the peer's %d", i, r.Requests, c.peers["original"][i].Requests)
		}
	}
}
