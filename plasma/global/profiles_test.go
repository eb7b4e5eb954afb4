package global

import (
	"testing"
	"time"
)

func TestNear(t *testing.T) {
	t0 := time.Unix(1000, 0)
	at := func(d time.Duration) time.Time { return t0.Add(d) }
	p := &profiles{period: time.Second}
	if got := p.near(at(5 * time.Second)); !got.Equal(at(5 * time.Second)) {
		t.Errorf("nothing has come: %s", got.Sub(t0))
	}
	p.regular = t0
	for due, want := range map[time.Duration]time.Duration{
		3 * time.Second:         3*time.Second + travel,
		3*time.Second + travel:  3*time.Second + travel,
		3400 * time.Millisecond: 3*time.Second + travel,
		3600 * time.Millisecond: 4*time.Second + travel,
		-time.Second:            travel,
	} {
		if got := p.near(at(due)).Sub(t0); got != want {
			t.Errorf("near %s: %s, want %s", due, got, want)
		}
	}
}
