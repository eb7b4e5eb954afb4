package store

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Check(); err != nil {
			t.Error(err)
		}
		s.Close()
	})
	return s
}

func sample(a placement.Actor) *api.TransferRequest {
	lane := bytes.Repeat([]byte{1}, 16)
	return &api.TransferRequest{
		Actor: a.API(), State: []byte("state"), Exists: true,
		Lanes:  []*api.Lane{{Id: lane, Last: 3, Body: []byte("b"), Seen: 5}},
		Outbox: []*api.Send{{To: a.API(), Function: "f", Lane: lane, Number: 1}, {To: a.API(), Lane: lane, Number: 256}},
		Timers: []*api.Timer{{Name: "t", At: 7}},
	}
}

func TestStore(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	// Names of which one begins as another does.
	actors := []placement.Actor{{Type: "T", Key: "a"}, {Type: "T", Key: "ab"}, {Type: "Ta", Key: "b"}, {Type: "", Key: "Ta"}}
	for _, a := range actors {
		if err := s.Do(func(tx *Tx) error { return tx.Adopt(sample(a), time.Now()) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Do(func(tx *Tx) error { return tx.Drop(actors[0]) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Do(func(tx *Tx) error { return tx.End(actors[1], time.Unix(9, 0)) }); err != nil {
		t.Fatal(err)
	}
	pending := sample(actors[3])
	pending.Move = "m"
	if err := s.Do(func(tx *Tx) error { return tx.PutPending(pending) }); err != nil {
		t.Fatal(err)
	}
	for range 2 { // and once more when it was opened again
		if _, found, err := s.Load(actors[0]); found || err != nil {
			t.Fatal(found, err)
		}
		r, found, err := s.Load(actors[2])
		if !found || err != nil || !proto.Equal(r, sample(actors[2])) {
			t.Fatal(r, found, err)
		}
		r, _, err = s.Load(actors[1])
		if err != nil || r.GetExists() || len(r.GetTimers()) != 0 || len(r.GetLanes()) != 1 || len(r.GetOutbox()) != 2 {
			t.Fatal(r, err)
		}
		all, err := s.All()
		if err != nil || len(all) != 3 || s.Count() != 2 {
			t.Fatal(all, s.Count(), err)
		}
		for _, one := range all {
			if one.Ended.IsZero() != (one.Actor != actors[1]) || !one.Sends || one.Timers != (one.Actor != actors[1]) {
				t.Errorf("%+v", one)
			}
		}
		if p, err := s.Pending(); err != nil || len(p) != 1 || !proto.Equal(p[0], pending) {
			t.Fatal(p, err)
		}
		if p, err := s.Coming(actors[3]); err != nil || !proto.Equal(p, pending) {
			t.Fatal(p, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir)
	}
	// A lane is forgotten up to a number.
	lane := bytes.Repeat([]byte{1}, 16)
	if err := s.Do(func(tx *Tx) error { return tx.DropSends(actors[2], lane, 255) }); err != nil {
		t.Fatal(err)
	}
	if r, _, _ := s.Load(actors[2]); len(r.GetOutbox()) != 1 || r.GetOutbox()[0].GetNumber() != 256 {
		t.Fatal(r.GetOutbox())
	}
}

func TestOneProcess(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, err := Open(dir); !errdefs.IsFailedPrecondition(err) {
		t.Fatal(err)
	}
}

// TestFailure has a transaction fail: what was begun on top of it fails too, and nothing else.
func TestFailure(t *testing.T) {
	s := open(t, t.TempDir())
	a, b := placement.Actor{Type: "T", Key: "a"}, placement.Actor{Type: "T", Key: "b"}
	full := errors.New("full")
	broken, fine := new(Chain), new(Chain)
	errs := make(chan error, 3)
	put := func(chain *Chain, a placement.Actor, state string) {
		s.Submit(&Write{Chain: chain, Apply: func(tx *Tx) error { return tx.PutState(a, []byte(state)) }, Done: func(err error) { errs <- err }})
	}
	s.Fail(full)
	put(broken, a, "1")
	if err := <-errs; !errors.Is(err, full) || !errdefs.IsAborted(err) || !broken.Failed() {
		t.Fatal(err)
	}
	s.Fail(nil)
	put(broken, a, "2")
	put(fine, b, "1")
	var failed int
	for range 2 {
		if err := <-errs; err != nil {
			failed++
		}
	}
	if ok, err := s.Exists(a); failed != 1 || ok || err != nil {
		t.Fatal(failed, ok, err)
	}
	if ok, err := s.Exists(b); !ok || err != nil || fine.Failed() {
		t.Fatal(ok, err)
	}
}

func TestGroups(t *testing.T) {
	s := open(t, t.TempDir())
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for n := range 20 {
				a := placement.Actor{Type: "T", Key: fmt.Sprint(i, n)}
				if err := s.Do(func(tx *Tx) error { return tx.PutState(a, nil) }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if s.Count() != 320 {
		t.Fatal(s.Count())
	}
	s.Close()
	if err := s.Do(func(*Tx) error { return nil }); !errdefs.IsUnavailable(err) {
		t.Fatal(err)
	}
}

// FuzzRecord decodes what could be in a file.
func FuzzRecord(f *testing.F) {
	f.Add(prefix(placement.Actor{Type: "T", Key: "k"}), encodeState([]byte("s"), true, time.Time{}))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), []byte{2})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if a, rest, err := parse(key); err == nil {
			// A length may be written in more bytes than it needs; ours are not.
			again, left, err := parse(append(prefix(a), rest...))
			if err != nil || again != a || !bytes.Equal(left, rest) {
				t.Fatal(a, again, err)
			}
		} else if !errdefs.IsDataLoss(err) {
			t.Fatal(err)
		}
		state, exists, since, err := decodeState(value)
		if err != nil {
			if !errdefs.IsDataLoss(err) {
				t.Fatal(err)
			}
			return
		}
		again, e, at, err := decodeState(encodeState(state, exists, since))
		if err != nil || !bytes.Equal(again, state) || e != exists || (!exists && !at.Equal(since)) {
			t.Fatal(again, e, at, err)
		}
	})
}

func TestPrefixes(t *testing.T) {
	long := strings.Repeat("x", 300)
	names := []placement.Actor{{}, {Type: "a"}, {Key: "a"}, {Type: "a", Key: "b"}, {Type: "ab"}, {Type: long, Key: "a"}, {Type: "a", Key: long}}
	for i, a := range names {
		for j, b := range names {
			if i != j && bytes.HasPrefix(prefix(a), prefix(b)) {
				t.Errorf("%.10s begins as %.10s does", a, b)
			}
		}
		if got, rest, err := parse(prefix(a)); got != a || len(rest) != 0 || err != nil {
			t.Error(got, rest, err)
		}
	}
}
