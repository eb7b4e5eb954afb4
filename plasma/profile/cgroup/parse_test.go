package cgroup

import (
	"maps"
	"testing"
	"time"
)

func TestFields(t *testing.T) {
	for _, test := range []struct {
		text  string
		want  [2]uint64
		found bool
	}{
		{"usage_usec 7\nuser_usec 3\nthrottled_usec 9\n", [2]uint64{7, 9}, true},
		{"throttled_usec 9\nusage_usec 7", [2]uint64{7, 9}, true},
		{"usage_usec 7\n", [2]uint64{7, 0}, false},
		{"usage_usec\nthrottled_usec -1\n\n x", [2]uint64{}, false},
		{"usage_usec 18446744073709551616\nthrottled_usec 1", [2]uint64{0, 1}, false},
		{"", [2]uint64{}, false},
	} {
		var got [2]uint64
		if found := fields([]byte(test.text), unifiedCPU, got[:]); got != test.want || found != test.found {
			t.Errorf("%q: %v, %v, want %v, %v", test.text, got, found, test.want, test.found)
		}
	}
}

const netDev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 5000       1    0    0    0     0          0         0     6000       1    0    0    0     0       0          0
  eth0:     100       1    0    0    0     0          0         0     20       1    0    0    0     0       0          0
eth1:3 1 0 0 0 0 0 0 4 1 0 0 0 0 0 0
`

func TestTraffic(t *testing.T) {
	if got := traffic([]byte(netDev)); got != 127 {
		t.Errorf("%d bytes, want 127", got)
	}
}

func TestMembership(t *testing.T) {
	got := membership("9:name=systemd:/\n2:cpu,cpuacct:/a/b:c\n0::/x\nx:cpu:/y\n3:memory:relative\nshort\n")
	want := map[string]string{"name=systemd": "/", "cpu": "/a/b:c", "cpuacct": "/a/b:c", "": "/x"}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestWithin(t *testing.T) {
	for _, test := range []struct {
		path, cgroup, want string
		ok                 bool
	}{
		{"/a/b", "", "/a/b", true},
		{"/a/b", "/a/b", "/a/b", true},
		{"/a/b/init", "a/b", "/a/b", true},
		{"/outer/a/b", "/a/b/", "/outer/a/b", true},
		{"/a/bc", "/a/b", "", false},
		{"/", "/a", "", false},
	} {
		if got, ok := within(test.path, test.cgroup); got != test.want || ok != test.ok {
			t.Errorf("%s in %s: %s, %v, want %s, %v", test.path, test.cgroup, got, ok, test.want, test.ok)
		}
	}
}

func TestSince(t *testing.T) {
	at := time.Now()
	before := Reading{At: at, CPU: 5 * time.Second, Throttled: time.Second, Memory: 1, Network: 1000}
	for _, test := range []struct {
		after Reading
		want  Usage
	}{
		{
			Reading{At: at.Add(2 * time.Second), CPU: 8 * time.Second, Throttled: 2 * time.Second, Memory: 7, Network: 3000},
			Usage{CPU: 1.5, Memory: 7, Network: 1000, Throttled: .5},
		},
		{Reading{At: at.Add(time.Second), Throttled: 9 * time.Second}, Usage{Throttled: 1}},
		{Reading{At: at, CPU: 9 * time.Second, Memory: 7}, Usage{Memory: 7}},
	} {
		if got := test.after.Since(before); got != test.want {
			t.Errorf("%+v, want %+v", got, test.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("usage_usec 7\nthrottled_usec 9\n"))
	f.Add([]byte(netDev))
	f.Add([]byte("0::/a\n2:cpu,cpuacct:/b"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var values [2]uint64
		fields(text, unifiedCPU, values[:])
		traffic(text)
		_, _ = number(text)
		for _, path := range membership(string(text)) {
			if got, ok := within(path, "/a/b"); ok && len(got) > len(path) {
				t.Errorf("%q is within %q", got, path)
			}
		}
	})
}
