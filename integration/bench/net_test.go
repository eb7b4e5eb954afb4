package bench

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

// TestNetRows makes rows of samples and checks what isn't the ratio of two medians.
func TestNetRows(t *testing.T) {
	s := samples{}
	for i := range 100 {
		s.add("burst-ADD", falcon, float64(100+i))
	}
	s.add("burst", falcon, 500)
	for _, what := range []string{
		"ADD", "DEL", "gone", "offer", "crowd-exec", "crowd-agent", "pingpong-bridge", "pingpong-overlay", "tcp-overlay",
	} {
		for _, name := range []string{falcon, falconAPI, pooled} {
			s.add(what, name, 2)
		}
		for _, name := range []string{bridge, unmasked, unguarded} {
			s.add(what, name, 8)
		}
		s.add(what, "few", 4)
		s.add(what, "many", 5)
	}
	notes := netNotes{crowd: 200, burst: 100, failed: map[string]int{}}
	rows := map[string]Row{}
	for _, r := range netRows(s, notes) {
		rows[r.Name] = r
	}
	for name, want := range map[string]float64{
		"cni-add": 4, "cni-add-agent": 4, "cni-del": 4, "attach-from-pool": 4, "cni-add-parallel": 198 / 149.5, "cni-add-1000": 1.25,
		"pingpong-bridge": 4, "pingpong-overlay": 4, "tcp-overlay": .25,
	} {
		if got := rows[name].Ratio; math.Abs(got-want) > 1e-9 {
			t.Errorf("the ratio of %s is %v, want %v", name, got, want)
		}
		delete(rows, name)
	}
	if len(rows) > 0 {
		t.Errorf("rows that nobody asked for: %v", rows)
	}
	if _, err := json.Marshal(netRows(s, notes)); err != nil {
		t.Error(err)
	}
	parallel := func() string {
		for _, r := range netRows(s, notes) {
			if r.Name == "cni-add-parallel" {
				return r.Note
			}
		}
		return ""
	}
	if note := parallel(); !strings.Contains(note, "left out") {
		t.Errorf("a quick run's note is %q", note)
	}
	notes.failed[bridge] = 100 // all of them
	if note := parallel(); !strings.Contains(note, "100 failed") {
		t.Errorf("the note is %q", note)
	}
}
