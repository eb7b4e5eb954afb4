package cgroup

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	devconfig "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestConfigResources(t *testing.T) {
	throttle := func(rate uint64) []specs.LinuxThrottleDevice {
		d := specs.LinuxThrottleDevice{Rate: rate}
		d.Major, d.Minor = 8, 16
		return []specs.LinuxThrottleDevice{d}
	}
	weight := specs.LinuxWeightDevice{Weight: ptr[uint16](300), LeafWeight: ptr[uint16](20)}
	weight.Major, weight.Minor = 8, 0
	for name, tc := range map[string]struct {
		in   specs.LinuxResources
		want cgroups.Resources
	}{
		"nothing": {},
		"memory": {
			specs.LinuxResources{Memory: &specs.LinuxMemory{
				Limit: ptr[int64](1 << 20), Reservation: ptr[int64](2 << 20), Swap: ptr[int64](-1), Swappiness: ptr[uint64](7),
				DisableOOMKiller: ptr(true), CheckBeforeUpdate: ptr(true), KernelTCP: ptr[int64](5), UseHierarchy: ptr(true),
			}},
			cgroups.Resources{
				Memory: 1 << 20, MemoryReservation: 2 << 20, MemorySwap: -1, MemorySwappiness: ptr[uint64](7),
				OomKillDisable: true, MemoryCheckBeforeUpdate: true,
			},
		},
		"cpu": {
			specs.LinuxResources{CPU: &specs.LinuxCPU{
				Shares: ptr[uint64](1024), Quota: ptr[int64](5000), Burst: ptr[uint64](10), Period: ptr[uint64](10000),
				RealtimeRuntime: ptr[int64](3), RealtimePeriod: ptr[uint64](4), Cpus: "0-1", Mems: "0", Idle: ptr[int64](1),
			}},
			cgroups.Resources{
				CpuShares: 1024, CpuWeight: 100, CpuQuota: 5000, CpuBurst: ptr[uint64](10), CpuPeriod: 10000,
				CpuRtRuntime: 3, CpuRtPeriod: 4, CpusetCpus: "0-1", CpusetMems: "0", CPUIdle: ptr[int64](1),
			},
		},
		"pids":           {specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](9)}}, cgroups.Resources{PidsLimit: ptr[int64](9)}},
		"pids unlimited": {specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](-1)}}, cgroups.Resources{PidsLimit: ptr[int64](-1)}},
		"pids zero":      {specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](0)}}, cgroups.Resources{}},
		"block io": {
			specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
				Weight: ptr[uint16](500), LeafWeight: ptr[uint16](10), WeightDevice: []specs.LinuxWeightDevice{weight},
				ThrottleReadBpsDevice: throttle(1), ThrottleWriteBpsDevice: throttle(2), ThrottleReadIOPSDevice: throttle(3), ThrottleWriteIOPSDevice: throttle(4),
			}},
			cgroups.Resources{
				BlkioWeight: 500, BlkioLeafWeight: 10,
				BlkioWeightDevice:            []*cgroups.WeightDevice{cgroups.NewWeightDevice(8, 0, 300, 20)},
				BlkioThrottleReadBpsDevice:   []*cgroups.ThrottleDevice{cgroups.NewThrottleDevice(8, 16, 1)},
				BlkioThrottleWriteBpsDevice:  []*cgroups.ThrottleDevice{cgroups.NewThrottleDevice(8, 16, 2)},
				BlkioThrottleReadIOPSDevice:  []*cgroups.ThrottleDevice{cgroups.NewThrottleDevice(8, 16, 3)},
				BlkioThrottleWriteIOPSDevice: []*cgroups.ThrottleDevice{cgroups.NewThrottleDevice(8, 16, 4)},
			},
		},
		"others": {
			specs.LinuxResources{
				HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}},
				Network:        &specs.LinuxNetwork{ClassID: ptr[uint32](77), Priorities: []specs.LinuxInterfacePriority{{Name: "eth0", Priority: 3}}},
				Rdma:           map[string]specs.LinuxRdma{"mlx": {HcaHandles: ptr[uint32](1), HcaObjects: ptr[uint32](2)}},
				Unified:        map[string]string{"memory.high": "100"},
			},
			cgroups.Resources{
				HugetlbLimit:     []*cgroups.HugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}},
				NetClsClassid:    77,
				NetPrioIfpriomap: []*cgroups.IfPrioMap{{Interface: "eth0", Priority: 3}},
				Rdma:             map[string]cgroups.LinuxRdma{"mlx": {HcaHandles: ptr[uint32](1), HcaObjects: ptr[uint32](2)}},
				Unified:          map[string]string{"memory.high": "100"},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Config("/a/b", &tc.in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Devices) != len(defaultDevices()) {
				t.Errorf("%d device rules, want the %d default ones", len(got.Devices), len(defaultDevices()))
			}
			got.Devices = nil
			if !reflect.DeepEqual(*got.Resources, tc.want) {
				t.Errorf("got %+v\nwant %+v", *got.Resources, tc.want)
			}
		})
	}
}

func TestConfigDevices(t *testing.T) {
	rules := func(in []*devconfig.Rule) string {
		var out []string
		for _, r := range in {
			sign := "-"
			if r.Allow {
				sign = "+"
			}
			out = append(out, sign+r.CgroupString())
		}
		return strings.Join(out, ", ")
	}
	got, err := Config("id", &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
		{Access: "rwm"},
		{Allow: true, Type: "b", Major: ptr[int64](8), Access: "r"},
	}}, []specs.LinuxDevice{{Path: "/dev/null", Type: "c", Major: 1, Minor: 3}, {Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}})
	if err != nil {
		t.Fatal(err)
	}
	const want = "-a *:* rwm, +b 8:* r, +c *:* m, +b *:* m, +c 1:8 rwm, +c 1:7 rwm, +c 5:0 rwm, +c 1:5 rwm, +c 1:9 rwm, +c 136:* rwm, +c 5:2 rwm, +c 10:200 rwm"
	if s := rules(got.Devices); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
}

func TestConfigPath(t *testing.T) {
	for in, want := range map[string]string{
		"/default/x": "/default/x", "x": "x", "a/../../../b": "b", "/a/../../b/": "/b", "../../etc": "etc", "system.slice:runc:x": "system.slice:runc:x",
	} {
		c, err := Config(in, nil, nil)
		if err != nil {
			t.Errorf("%q: %v", in, err)
		} else if c.Path != want {
			t.Errorf("%q became %q, want %q", in, c.Path, want)
		}
	}
}

func TestConfigRefuses(t *testing.T) {
	device := func(d specs.LinuxDeviceCgroup) *specs.LinuxResources {
		return &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{d}}
	}
	for name, tc := range map[string]struct {
		path string
		r    *specs.LinuxResources
	}{
		"no path":     {"", nil},
		"the root":    {"/", nil},
		"up to root":  {"/a/..", nil},
		"type":        {"x", device(specs.LinuxDeviceCgroup{Type: "u", Access: "r"})},
		"no access":   {"x", device(specs.LinuxDeviceCgroup{Type: "c"})},
		"access":      {"x", device(specs.LinuxDeviceCgroup{Type: "c", Access: "rx"})},
		"negative":    {"x", device(specs.LinuxDeviceCgroup{Type: "c", Access: "r", Major: ptr[int64](-2)})},
		"large minor": {"x", device(specs.LinuxDeviceCgroup{Type: "c", Access: "r", Minor: ptr[int64](1 << 32)})},
	} {
		if _, err := Config(tc.path, tc.r, nil); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestMerge(t *testing.T) {
	have := cgroups.Resources{Memory: 5, CpuQuota: 50, CpuPeriod: 100, CpuShares: 9, PidsLimit: ptr[int64](4), OomKillDisable: true, BlkioWeight: 10}
	for name, tc := range map[string]struct {
		in   specs.LinuxResources
		want cgroups.Resources
	}{
		"nothing writes nothing but what runc rewrites": {specs.LinuxResources{}, cgroups.Resources{OomKillDisable: true}},
		"quota keeps period":                            {specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](20)}}, cgroups.Resources{OomKillDisable: true, CpuQuota: 20, CpuPeriod: 100}},
		"period keeps quota":                            {specs.LinuxResources{CPU: &specs.LinuxCPU{Period: ptr[uint64](70)}}, cgroups.Resources{OomKillDisable: true, CpuQuota: 50, CpuPeriod: 70}},
		"memory":                                        {specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](8)}}, cgroups.Resources{OomKillDisable: true, Memory: 8}},
		"devices are not updated":                       {specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}}, cgroups.Resources{OomKillDisable: true}},
		"pids":                                          {specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](7)}}, cgroups.Resources{OomKillDisable: true, PidsLimit: ptr[int64](7)}},
	} {
		if got := merge(have, &tc.in); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %+v\nwant %+v", name, got, tc.want)
		}
	}
}
