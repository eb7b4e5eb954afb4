package endpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/netplugin/priority"
)

func store(t testing.TB) (*Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state", "endpoints")
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func record(id string) Record {
	return Record{
		ContainerID: id, IfName: "eth0", Network: "pods", VNI: 7, Link: "fv0123456789a", MAC: MAC{2, 0, 10, 1, 0, 5},
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.5/24"), netip.MustParsePrefix("fd01::5/64")},
		Gateways:  []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd01::1")},
		Namespace: "/run/netns/a", NamespaceInode: 1<<63 + 1,
		Config: json.RawMessage(`{"name":"pods","n":12345678901234567890}`), Path: []string{"/opt/cni/bin"}, Args: "A=B",
		Result: json.RawMessage(`{"cniVersion":"1.1.0"}`), BootID: "b", Created: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Complete: true, Offer: "o",
		Priority: priority.Policy{Default: priority.High, Rules: []priority.Rule{
			{Proto: priority.UDP, Port: 11211, CIDR: netip.MustParsePrefix("10.88.0.0/16"), Class: priority.Low},
		}},
	}
}

func TestStore(t *testing.T) {
	s, dir := store(t)
	if _, err := s.Get("a", "eth0"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if err := s.Delete("a", "eth0"); err != nil {
		t.Error(err)
	}
	long := strings.Repeat("x", 4000)
	for _, id := range []string{"a", "a.b", "A", long, "a-b_c"} {
		want := record(id)
		for range 2 {
			if err := s.Put(want); err != nil {
				t.Fatal(err)
			}
		}
		got, err := s.Get(id, "eth0")
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, want %+v, %v", got, want, err)
		}
	}
	minimal := Record{ContainerID: "a", IfName: "..eth;\x01"}
	if err := s.Put(minimal); err != nil {
		t.Error(err)
	}
	if got, err := s.Get("a", "..eth;\x01"); err != nil || !reflect.DeepEqual(got, minimal) {
		t.Errorf("%+v, %v", got, err)
	}
	records, bad, err := s.List()
	if err != nil || len(records) != 6 || len(bad) != 0 {
		t.Errorf("%d records, bad %v, %v", len(records), bad, err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	for range 2 {
		if err := s.Delete("a", "eth0"); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Get("a", "eth0"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := s.Get("A", "eth0"); err != nil {
		t.Error(err)
	}
}

func TestInvalidNames(t *testing.T) {
	s, _ := store(t)
	for _, name := range [][2]string{{"", "eth0"}, {"../a", "eth0"}, {".a", "eth0"}, {"a b", "eth0"}, {"a", ""}, {"a", ".."}, {"a", "x/y"}} {
		_, err := s.Get(name[0], name[1])
		for call, err := range map[string]error{"Put": s.Put(Record{ContainerID: name[0], IfName: name[1]}), "Delete": s.Delete(name[0], name[1]), "Get": err} {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%s %q: %v", call, name, err)
			}
		}
	}
}

// What earlier versions wrote knows nothing of classes, and says nothing of them.
func TestPriority(t *testing.T) {
	const old = `{"containerID":"a","ifName":"eth0","complete":true}`
	r, err := decode(fileName("a", "eth0"), []byte(old))
	if err != nil || !r.Priority.IsZero() {
		t.Errorf("%+v, %v", r.Priority, err)
	}
	text, err := encode(r)
	if err != nil || strings.Contains(string(text), "priority") {
		t.Errorf("%s, %v", text, err)
	}
	r.Priority.Rules = make([]priority.Rule, priority.MaxRules+1)
	if text, err := encode(r); !errdefs.IsInvalidArgument(err) {
		t.Errorf("%s, %v", text, err)
	}
	for _, bad := range []string{`{"default":"urgent"}`, `{"rules":[{"cidr":"10.0.0.1/8","class":"low"}]}`} {
		text := strings.Replace(old, "{", `{"priority":`+bad+`,`, 1)
		if r, err := decode(fileName("a", "eth0"), []byte(text)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %+v, %v", text, r.Priority, err)
		}
	}
}

func TestDamagedAndUnfinished(t *testing.T) {
	s, dir := store(t)
	if err := s.Put(record("a")); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, fileName("a", "eth0")))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"empty.json": "", "half.json": string(whole[:50]), "other.json": string(whole),
		fileName("b", "eth0"): `{"containerID":"../b","ifName":"eth0"}`, draft + "123": "x", "README": "x",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "directory.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	records, bad, err := s.List()
	if err != nil || len(records) != 1 || len(bad) != 5 {
		t.Errorf("%d records, bad %v, %v", len(records), bad, err)
	}
	if _, err := s.Get("b", "eth0"); err == nil || errdefs.IsNotFound(err) {
		t.Error(err)
	}
	// Delete needs not read it.
	if err := s.Delete("b", "eth0"); err != nil {
		t.Error(err)
	}
	if _, err := Open(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, draft+"123")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an unfinished file is left: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "half.json")); err != nil {
		t.Errorf("a damaged file is gone: %v", err)
	}
}

// Readers see whole records only, while others write, delete and open the store.
func TestConcurrent(t *testing.T) {
	s, dir := store(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 50 {
				r := record(fmt.Sprint("c", i%3))
				r.Args = strings.Repeat("x", n*100)
				if err := s.Put(r); err != nil {
					t.Error(err)
				}
				if _, bad, err := s.List(); err != nil || len(bad) > 0 {
					t.Error(bad, err)
				}
				if _, err := s.Get(r.ContainerID, r.IfName); err != nil && !errdefs.IsNotFound(err) {
					t.Error(err)
				}
				if i == 6 && n%10 == 0 {
					if _, err := Open(dir); err != nil {
						t.Error(err)
					}
				}
				if i == 7 {
					if err := s.Delete(r.ContainerID, r.IfName); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
}

func FuzzDecode(f *testing.F) {
	whole, err := encode(record("a"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte(`{"containerID":"a","ifName":"eth0","priority":{"default":"low","rules":[{"proto":"tcp","port":7,"cidr":"::/0","class":"high"}]}}`))
	f.Add([]byte(`{"containerID":"a","ifName":"eth0","mac":"","addresses":[""],"gateways":["fe80::1%x"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var named struct{ ContainerID, IfName string }
		_ = json.Unmarshal(data, &named)
		r, err := decode(fileName(named.ContainerID, named.IfName), data)
		if err != nil {
			return
		}
		again, err := encode(r)
		if err != nil {
			t.Fatalf("%+v can't be written: %v", r, err)
		}
		if _, err := decode(fileName(r.ContainerID, r.IfName), again); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
	})
}

func BenchmarkPut(b *testing.B) {
	s, _ := store(b)
	for b.Loop() {
		if err := s.Put(record("a")); err != nil {
			b.Fatal(err)
		}
	}
}
