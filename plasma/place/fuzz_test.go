package place

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/containerd/log"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// Keys are told apart whatever users' names are.
func TestKeys(t *testing.T) {
	k := newKeys("a/b")
	r := rand.New(rand.NewPCG(3, 4))
	alphabet := []byte("aZ/%\x00\xff .-é")
	for range 2000 {
		texts := make([]string, 1+r.IntN(3))
		for i := range texts {
			for range r.IntN(6) {
				texts[i] += string(alphabet[r.IntN(len(alphabet))])
			}
		}
		key := k.path("kind", texts...)
		if kind, got, ok := k.split(key); !ok || kind != "kind" || !reflect.DeepEqual(got, texts) {
			t.Fatalf("%q became %q, %q", texts, key, got)
		}
	}
	if a := (placement.Actor{Type: "x/y", Key: "%"}); k.move("s", a) == "" {
		t.Error("no key")
	} else if got, ok := k.actor(k.exception("s", a)); !ok || got != a {
		t.Errorf("%v", got)
	}
}

// FuzzWorld reads and forgets keys of any kind.
func FuzzWorld(f *testing.F) {
	_ = log.SetLevel("error")
	var table placement.Table
	k := newKeys("c")
	full := table.Assign([]string{"a", "b"})
	for _, kv := range [][2]string{
		{k.member("n"), `{"address":"a:1"}`},
		{k.leader(5), "n"},
		{k.service("s"), `{"spec":"x"}`},
		{k.server("s", "s-1"), `{"node":"n","state":"up"}`},
		{k.instance("s", "s-1"), `{"node":"n","instance":1}`},
		{k.registered("s", "s-1"), "1"},
		{k.move("s", placement.Actor{Type: "T", Key: "k"}), `{"id":"m","from":"a","to":"b","epoch":2}`},
		{k.exception("s", placement.Actor{Type: "T", Key: "k"}), `{"s":"a","e":1,"m":"m"}`},
		{k.table("s"), encodeTable(&full)},
		{k.path("odd"), ""},
	} {
		f.Add(kv[0], []byte(kv[1]), "s")
	}
	f.Fuzz(func(t *testing.T, key string, value []byte, service string) {
		w := newWorld(k)
		m := &Mirror{store: &Store{keys: k}, world: w}
		kv := &mvccpb.KeyValue{Key: []byte(key), Value: value, ModRevision: 1, CreateRevision: 1, Version: 1}
		w.put(t.Context(), kv)
		w.put(t.Context(), kv)
		m.Leader()
		m.Services()
		if err := placement.NewView().Apply(m.Placement(service)); err != nil {
			t.Errorf("hosts don't take it: %v", err)
		}
		w.remove(key)
		if len(w.members)+len(w.leaders)+len(w.services) > 0 {
			t.Errorf("something is left: %+v", w)
		}
	})
}

// FuzzTable reads tables; what can be read is written as it was.
func FuzzTable(f *testing.F) {
	for n := range 4 {
		table := placement.Table{}.Assign([]string{"a", "b", "c"}[:n])
		f.Add([]byte(encodeTable(&table)))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		table, err := decodeTable(value)
		if err != nil {
			return
		}
		again, err := decodeTable([]byte(encodeTable(table)))
		if err != nil || !reflect.DeepEqual(again, table) {
			t.Errorf("%v", err)
		}
	})
}

// FuzzMemory reads memories.
func FuzzMemory(f *testing.F) {
	f.Add([]byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\xaa\xae\x05\x04\x00\x00\xff\xff\x43\xbf\xa6\xa3\x02\x00\x00\x00"))
	f.Fuzz(func(_ *testing.T, value []byte) { _, _ = decodeMemory(value) })
}
