package ipam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"go.uber.org/goleak"
)

// childDirectory tells the test's own binary to add and delete until it is killed.
const childDirectory = "TEST_IPAM_CHILD_DIRECTORY"

// childPlugin tells it to execute the plugin of that directory.
const childPlugin = "TEST_IPAM_CHILD_PLUGIN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childPlugin); dir != "" {
		fmt.Println(Del(context.Background(), pluginRequest("1.1.0", dir)))
		return
	}
	if dir := os.Getenv(childDirectory); dir != "" {
		for i := 0; ; i++ {
			r := request(dir, fmt.Sprintf("child%d", i%4), dual)
			_, err := Add(context.Background(), r)
			if err == nil && i%3 != 0 {
				err = Del(context.Background(), r)
			}
			if i > 0 && err != nil && !strings.Contains(err.Error(), "duplicate") {
				panic(err)
			}
		}
	}
	goleak.VerifyTestMain(m)
}

func request(dir, id, ipam string) Request {
	return step{id: id, config: config("1.0.0", ipam, "")}.request(dir)
}

func add(t testing.TB, r Request) []netip.Prefix {
	t.Helper()
	result, err := Add(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var got []netip.Prefix
	for _, ip := range result.IPs {
		got = append(got, netip.MustParsePrefix(ip.Address.String()))
	}
	return got
}

func allocations(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := files(t, dir)
	maps.DeleteFunc(all, func(name, _ string) bool {
		_, err := netip.ParseAddr(filepath.Base(name))
		return err != nil
	})
	return all
}

func TestGC(t *testing.T) {
	dir := t.TempDir()
	for _, id := range []string{"a", "b", "c"} {
		add(t, request(dir, id, dual))
	}
	second := request(dir, "a", dual)
	second.IfName = "eth1"
	add(t, second)
	for name, content := range map[string]string{"10.1.0.100": "", "10.1.0.101": "old", "10.1.0.102": "gone", "fd01::99": "half\r\n", "README": "mine"} {
		if err := os.WriteFile(filepath.Join(dir, "net", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	valid := []types.GCAttachment{{ContainerID: "a", IfName: "eth1"}, {ContainerID: "b", IfName: "eth0"}, {ContainerID: "old", IfName: "eth0"}, {ContainerID: "never", IfName: "eth0"}}
	// Of a request for GC only the configuration counts; host-local needs no ranges for it.
	collector := Request{Config: []byte(`{"name":"net","cniVersion":"0.4.0","ipam":{"type":"host-local","dataDir":"` + dir + `"}}`)}
	for range 2 {
		if err := GC(t.Context(), collector, valid); err != nil {
			t.Fatal(err)
		}
		want := []string{"a\r\neth1", "a\r\neth1", "b\r\neth0", "b\r\neth0", "old"}
		if got := slices.Sorted(maps.Values(allocations(t, dir))); !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
	}
	if err := GC(t.Context(), collector, nil); err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(files(t, dir))); !slices.Equal(got, []string{"net/README", "net/last_reserved_ip.0", "net/last_reserved_ip.1", "net/lock"}) {
		t.Errorf("%q", got)
	}
}

func TestParallel(t *testing.T) {
	const containers = 60
	binary := filepath.Join(cniPlugins(t), HostLocal)
	dir := t.TempDir()
	var all sync.WaitGroup
	for i := range containers {
		all.Go(func() {
			s := step{id: fmt.Sprint("c", i), config: config("1.0.0", dual, "")}
			for range 2 {
				for _, s.command = range []string{"ADD", "CHECK", "DEL"} {
					var o outcome
					if i%6 == 0 {
						o = s.stock(t, binary, dir)
					} else {
						o = s.ours(t, dir)
					}
					if o.Code != 0 {
						t.Errorf("%s %s: %+v", s.command, s.id, o)
					}
				}
			}
			s.command = "ADD"
			s.ours(t, dir)
		})
	}
	all.Wait()
	if got := len(allocations(t, dir)); got != 2*containers {
		t.Errorf("%d addresses, want %d", got, 2*containers)
	}
}

// Whenever the process is killed, what it leaves can be released by Del or GC, and no
// address is left half written.
func TestKilled(t *testing.T) {
	for range 25 {
		dir := t.TempDir()
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), childDirectory+"="+dir)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
		deadline := time.Now().Add(time.Minute)
		for len(allocations(t, dir)) == 0 && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(rand.IntN(20000)) * time.Microsecond)
		_ = c.Process.Kill()
		_ = c.Wait()
		for name, owner := range allocations(t, dir) {
			if !strings.HasSuffix(owner, "\r\neth0") {
				t.Errorf("%s is half written: %q", name, owner)
			}
		}
		for i := range 4 {
			if err := Del(t.Context(), request(dir, fmt.Sprint("child", i), dual)); err != nil {
				t.Error(err)
			}
		}
		if left := allocations(t, dir); len(left) != 0 {
			t.Errorf("left: %q", left)
		}
		add(t, request(dir, "next", dual))
	}
}

func TestNewFile(t *testing.T) {
	for name, make := range map[string]func(dir, name, content string) (bool, error){"newFile": newFile, "nameless": nameless, "renamed": renamed} {
		dir := t.TempDir()
		for i, want := range []bool{true, false} {
			if made, err := make(dir, "x", "content"); made != want || err != nil {
				t.Errorf("%s %d: %v, %v", name, i, made, err)
			}
		}
		if got := files(t, dir); !maps.Equal(got, map[string]string{"x": "content"}) {
			t.Errorf("%s: %q", name, got)
		}
		if _, err := make("/proc", "x", ""); err == nil {
			t.Errorf("%s: a file is made in /proc", name)
		}
	}
}

func TestPanicsAreErrors(t *testing.T) {
	dir := t.TempDir()
	for _, more := range []string{`,"runtimeConfig":{"ips":[null]}`, `,"args":{"cni":{"ips":[null]}}`} {
		s := step{id: "a", config: config("1.0.0", dual, more)}
		for _, s.command = range []string{"ADD", "DEL", "CHECK"} {
			if o := s.ours(t, dir); o.Code != types.ErrInvalidNetworkConfig {
				t.Errorf("%s with %s: %+v", s.command, more, o)
			}
		}
	}
}

func TestUnusableRequests(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(*Request)
		code  uint
	}{
		"container":  {func(r *Request) { r.ContainerID = "../x" }, types.ErrInvalidEnvironmentVariables},
		"no ID":      {func(r *Request) { r.ContainerID = "" }, types.ErrUnknownContainer},
		"interface":  {func(r *Request) { r.IfName = "a:b" }, types.ErrInvalidEnvironmentVariables},
		"namespace":  {func(r *Request) { r.NetNS = "" }, types.ErrInvalidEnvironmentVariables},
		"no config":  {func(r *Request) { r.Config = nil }, types.ErrDecodingFailure},
		"no ipam":    {func(r *Request) { r.Config = []byte(`{"name":"net","cniVersion":"1.0.0"}`) }, types.ErrInvalidNetworkConfig},
		"a path":     {func(r *Request) { r.Config = []byte(`{"name":"n","cniVersion":"1.0.0","ipam":{"type":"../sh"}}`) }, types.ErrInternal},
		"no version": {func(r *Request) { r.Config = []byte(`{"name":"n","cniVersion":"7","ipam":{"type":"x"}}`) }, types.ErrIncompatibleCNIVersion},
	} {
		dir := t.TempDir()
		r := request(dir, "a", small)
		r.Path = []string{"/bin"}
		test.spoil(&r)
		_, err := Add(t.Context(), r)
		var e *types.Error
		if !errors.As(err, &e) || e.Code != test.code {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "net")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: something was made: %v", name, err)
		}
	}
}

func FuzzConfig(f *testing.F) {
	for _, ipam := range []string{small, dual, `"subnet":"10.1.0.0/30"`} {
		for _, more := range []string{"", `,"runtimeConfig":{"ips":["10.1.0.2"],"ipRanges":[[{"subnet":"10.4.0.0/29"}]]}`, `,"args":{"cni":{"ips":[null]}}`} {
			f.Add(config("1.0.0", ipam, more), "IP=10.1.0.3")
			f.Add(config("0.2.0", ipam, more), "")
		}
	}
	f.Add(`{"name":"n","ipam":{"type":"host-local"}}`, "")
	f.Add(`{"name":"n"}`, "")
	subnets := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/28"), netip.MustParsePrefix("fd00::/64")}
	f.Fuzz(func(t *testing.T, config, args string) {
		// The data stays in the test's directory, and no file is named but that.
		dir := t.TempDir()
		full, err := WithRanges([]byte(config), subnets)
		if err != nil {
			return
		}
		var c map[string]json.RawMessage
		var section map[string]json.RawMessage
		if json.Unmarshal(full, &c) != nil || json.Unmarshal(c["ipam"], &section) != nil {
			return
		}
		for key := range c {
			if strings.EqualFold(key, "ipam") && key != "ipam" {
				return
			}
		}
		maps.DeleteFunc(section, func(key string, _ json.RawMessage) bool {
			return strings.EqualFold(key, "dataDir") || strings.EqualFold(key, "resolvConf")
		})
		section["dataDir"], _ = json.Marshal(dir)
		c["ipam"], _ = json.Marshal(section)
		full, _ = json.Marshal(c)
		r := Request{ContainerID: "a", IfName: "eth0", NetNS: "x", Args: args, Config: full}
		result, err := Add(t.Context(), r)
		var e *types.Error
		if err != nil && !errors.As(err, &e) {
			t.Errorf("not a CNI error: %v", err)
		}
		if err == nil && len(result.IPs) == 0 {
			t.Error("no address and no error")
		}
		if left := allocations(t, dir); err != nil && len(left) != 0 {
			t.Errorf("%v, and left: %q", err, left)
		}
		if err == nil {
			if err := Del(t.Context(), r); err != nil {
				t.Errorf("Del: %v", err)
			}
		}
		if left := allocations(t, dir); len(left) != 0 {
			t.Errorf("left: %q", left)
		}
	})
}

// BenchmarkAddDel is one container beside many others.
func BenchmarkAddDel(b *testing.B) {
	for _, others := range []int{0, 100, 1000} {
		dir := b.TempDir()
		const ranges = `"ranges":[[{"subnet":"10.1.0.0/16"}]]`
		for i := range others {
			r := request(dir, fmt.Sprintf("%064d", i), ranges)
			r.Fresh = true
			add(b, r)
		}
		for _, known := range []bool{false, true} {
			b.Run(fmt.Sprintf("others=%d/known=%t", others, known), func(b *testing.B) {
				r := request(dir, strings.Repeat("f", 64), ranges)
				for b.Loop() {
					r.Fresh, r.Addresses = known, nil
					got := add(b, r)
					if known {
						r.Addresses = append(r.Addresses, got[0].Addr())
					}
					if err := Del(b.Context(), r); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
