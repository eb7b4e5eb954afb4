package fastpath

import (
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

func TestOpen(t *testing.T) {
	b := time.Now()
	features := Probe()
	t.Logf("%+v %v", features, time.Since(b))
	netnstest.New(t).Do(func() {
		b := time.Now()
		f, err := Open(features)
		t.Log(time.Since(b))
		if err != nil {
			t.Fatalf("%+v", err)
		}
		defer f.Close()
	})
}
