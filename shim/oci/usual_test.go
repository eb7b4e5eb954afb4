package oci_test

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/peregrine-dev/peregrine/shim/oci"
)

// usualText is what containerd's client makes for a container without wishes.
func usualText(tb testing.TB) []byte {
	tb.Helper()
	text, err := os.ReadFile("../part/usual.json")
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

// usual is that spec, changed.
func usual(tb testing.TB, change func(*specs.Spec)) *specs.Spec {
	tb.Helper()
	s, err := oci.Decode(usualText(tb))
	if err != nil {
		tb.Fatal(err)
	}
	if change != nil {
		change(s)
	}
	return s
}

func ptr[T any](v T) *T { return &v }

func TestUsual(t *testing.T) {
	c, err := oci.Compile("usual", usual(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := json.Marshal(c.Plan); err != nil {
		t.Fatal(err)
	}
	if len(c.Join) != 0 || len(c.Binds) != 0 || len(c.CgroupMounts) != 0 || !c.Plan.SetupDev || c.Plan.CgroupNamespace {
		t.Errorf("%+v", c)
	}
	if p := c.Plan.Process; !p.NoNewPrivileges || len(p.Seccomp) == 0 || p.Umask != 0o022 || p.OOMScoreAdj != nil {
		t.Errorf("%+v", p)
	}
}

func BenchmarkUsual(b *testing.B) {
	text := usualText(b)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		s, err := oci.Decode(text)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := oci.Compile("usual", s); err != nil {
			b.Fatal(err)
		}
	}
}
