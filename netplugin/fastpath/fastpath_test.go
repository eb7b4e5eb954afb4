package fastpath

import (
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/netplugin/bpf"
)

// The settings are what the calls amount to, and adopted as they are.
func TestSettings(t *testing.T) {
	l := newLab(t, false, nil)
	read := func() (s bpf.FalconSettings) {
		t.Helper()
		var zero uint32
		l.must(l.path.objects.FalconSettings.Lookup(&zero, &s))
		return s
	}
	before := read()
	if before.Schema != bpf.Schema || before.Flags&bpf.FalconFlagFLAG_SHORTCUT == 0 || before.Flags&bpf.FalconFlagFLAG_WIRE == 0 {
		t.Errorf("the settings are %+v", before)
	}
	l.must(l.path.Invalidate())
	if now := read(); now.Epoch != before.Epoch+1 {
		t.Errorf("epoch %d after %d", now.Epoch, before.Epoch)
	}
	l.must(l.path.Renew())
	now, err := monotonic()
	l.must(err)
	if left := time.Duration(read().ValidUntil - now); left <= Lease-10*time.Second || left > Lease {
		t.Errorf("the lease ends in %s", left)
	}
	l.must(l.path.Shortcut(false))
	if read().Flags&bpf.FalconFlagFLAG_SHORTCUT != 0 {
		t.Error("the shortcut is on")
	}
	want := read()
	l.must(l.path.Close())
	l.Do(func() {
		f, err := Open(Probe())
		l.must(err)
		t.Cleanup(func() { f.Close() })
		l.path = f
	})
	if got := read(); got != want {
		t.Errorf("the next process has made %+v of %+v", got, want)
	}
}
