package pipeline

import (
	"slices"
	"testing"

	"github.com/containerd/errdefs"
)

func TestSupported(t *testing.T) {
	if err := Supported(); err != nil {
		t.Error(err)
	}
	cpus, err := UsableCPUs()
	if len(cpus) == 0 || err != nil {
		t.Error(cpus, err)
	}
	stat, err := ReadStat()
	for _, c := range cpus {
		if times := stat[c]; times.Busy == 0 || times.Idle == 0 {
			t.Error(c, times, err)
		}
	}
}

func TestAllowedCPUs(t *testing.T) {
	if got, err := parseAllowed("Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t0-1,7\nMems_allowed:\t1\n"); !slices.Equal(got, []int{0, 1, 7}) || err != nil {
		t.Error(got, err)
	}
	if got, err := parseAllowed("Name:\tx\n"); !errdefs.IsNotImplemented(err) {
		t.Error(got, err)
	}
}
