package oci_test

import (
	"encoding/json"
	"path"
	"reflect"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/oci"
	"github.com/peregrine-dev/peregrine/shim/plan"
)

// FuzzDecode: whatever is in a config.json, decoding ends with a spec or with a reason to
// fall back.
func FuzzDecode(f *testing.F) {
	f.Add(usualText(f))
	f.Add([]byte(`{"process":{"user":{"uid":4294967295}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := oci.Decode(text); err != nil && !errdefs.IsNotImplemented(err) {
			t.Error(err)
		}
		if _, err := oci.DecodeProcess(text); err != nil && !errdefs.IsInvalidArgument(err) {
			t.Error(err)
		}
	})
}

// FuzzCompile: a plan confines at least as its spec does.
func FuzzCompile(f *testing.F) {
	f.Add(usualText(f))
	for _, c := range refused {
		text, err := json.Marshal(usual(f, c.change))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := oci.Decode(text)
		if err != nil {
			return
		}
		c, err := oci.Compile("id", s)
		if err != nil {
			if !errdefs.IsNotImplemented(err) {
				t.Error(err)
			}
			return
		}
		confines(t, c, s)
		again, err := json.Marshal(c.Plan)
		if err != nil {
			t.Fatal(err)
		}
		var p plan.Container
		if err := json.Unmarshal(again, &p); err != nil {
			t.Fatal(err)
		}
	})
}

func confines(t *testing.T, c *oci.Container, s *specs.Spec) {
	t.Helper()
	p := &c.Plan
	if !slices.Equal(p.MaskedPaths, s.Linux.MaskedPaths) || !slices.Equal(p.ReadonlyPaths, s.Linux.ReadonlyPaths) {
		t.Error("paths to protect are missing")
	}
	if p.RootReadonly != s.Root.Readonly || p.Process.NoNewPrivileges != s.Process.NoNewPrivileges {
		t.Error("less read-only or with more privileges")
	}
	if len(p.Mounts) != len(s.Mounts) {
		t.Fatal("not as many mounts")
	}
	for i, m := range s.Mounts {
		got := p.Mounts[i]
		if got.Destination != m.Destination || path.Clean(m.Destination) == "/" {
			t.Errorf("%+v became %+v", m, got)
		}
	}
	asked := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range s.Linux.Namespaces {
		asked[ns.Type] = true
		flag := map[specs.LinuxNamespaceType]uintptr{
			specs.PIDNamespace: unix.CLONE_NEWPID, specs.IPCNamespace: unix.CLONE_NEWIPC, specs.UTSNamespace: unix.CLONE_NEWUTS,
			specs.NetworkNamespace: unix.CLONE_NEWNET, specs.MountNamespace: unix.CLONE_NEWNS,
		}[ns.Type]
		if ns.Path == "" && c.New&flag != flag {
			t.Errorf("no %s namespace", ns.Type)
		}
		if ns.Path != "" && !slices.Contains(c.Join, oci.Namespace{Type: int(flag), Path: ns.Path}) {
			t.Errorf("%s isn't joined", ns.Path)
		}
	}
	if p.CgroupNamespace != asked[specs.CgroupNamespace] || asked[specs.UserNamespace] || asked[specs.TimeNamespace] {
		t.Error("namespaces are missing")
	}
	if !asked[specs.UTSNamespace] && p.Hostname+p.Domainname != "" {
		t.Error("it would name the host")
	}
	if f := s.Linux.Seccomp; f != nil && (f.DefaultAction != "" || len(f.Syscalls) > 0) != (len(p.Process.Seccomp) > 0) {
		t.Error("no filter")
	}
	if s.Process.ApparmorProfile != p.Process.AppArmor || len(s.Process.Rlimits) != len(p.Process.Rlimits) {
		t.Error("less confined")
	}
	caps := s.Process.Capabilities
	if caps == nil {
		caps = &specs.LinuxCapabilities{}
	}
	got := reflect.ValueOf(p.Process.Capabilities)
	for name, list := range map[string][]string{
		"Bounding": caps.Bounding, "Effective": caps.Effective, "Permitted": caps.Permitted,
		"Inheritable": caps.Inheritable, "Ambient": caps.Ambient,
	} {
		distinct := map[string]bool{}
		for _, one := range list {
			distinct[one] = true
		}
		if bits := got.FieldByName(name).Uint(); popcount(bits) != len(distinct) {
			t.Errorf("%s is %#x for %v", name, bits, list)
		}
	}
}

func popcount(bits uint64) (n int) {
	for ; bits != 0; bits &= bits - 1 {
		n++
	}
	return n
}
