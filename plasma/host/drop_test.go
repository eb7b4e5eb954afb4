package host

import (
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/host/store"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// TestDropLate deletes actors that were useless when they were listed: one is another's, one has
// come back since, one has ended long ago, one has begun anew since.
func TestDropLate(t *testing.T) {
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	h := &Host{store: s, owners: newOwners(), server: "here"}
	actor := func(key string) placement.Actor { return placement.Actor{Type: "T", Key: key} }
	names := []placement.Actor{actor("elsewhere"), actor("back"), actor("ended"), actor("anew")}
	err = s.Do(func(tx *store.Tx) error {
		for _, a := range names {
			if err := tx.PutState(a, []byte("state")); err != nil {
				return err
			}
		}
		for _, a := range names[2:] {
			if err := tx.End(a, time.Now().Add(-48*time.Hour)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range names {
		owner := placement.Owner{Server: "there", Epoch: 1}
		if i >= 2 {
			owner.Server = "here"
		}
		h.owners.learn(a, owner)
	}
	all, err := s.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range all {
		if !h.useless(one) {
			t.Errorf("%s is of use", one.Actor)
		}
	}
	h.owners.learn(names[1], placement.Owner{Server: "here", Epoch: 2})
	if err := s.Do(func(tx *store.Tx) error { return tx.PutState(names[3], []byte("new")) }); err != nil {
		t.Fatal(err)
	}
	if err := h.drop(names); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, true, false, true} {
		if _, found, err := s.Load(names[i]); err != nil || found != want {
			t.Errorf("%s is stored: %v, %v", names[i], found, err)
		}
	}
}
