package lane

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/api"
)

func id(n int) (l ID) {
	binary.BigEndian.PutUint64(l[:], uint64(n))
	return l
}

func TestCheck(t *testing.T) {
	now := time.Now()
	var table Table
	for _, step := range []struct {
		n    uint64
		want Verdict
		is   func(error) bool
	}{
		{2, 0, errdefs.IsFailedPrecondition},
		{1, Process, nil},
		{1, Repeat, nil},
		{3, 0, errdefs.IsFailedPrecondition},
		{2, Process, nil},
		{1, 0, errdefs.IsAlreadyExists},
		{2, Repeat, nil},
	} {
		v, l, err := table.Check(id(1), step.n, now)
		switch {
		case step.is != nil:
			if !step.is(err) {
				t.Fatalf("%d: %v", step.n, err)
			}
		case err != nil || v != step.want || (v == Repeat && !bytes.Equal(l.GetBody(), []byte{byte(step.n)})):
			t.Fatalf("%d: %v %v %v", step.n, v, l, err)
		case v == Process:
			table.Answer(id(1), step.n, []byte{byte(step.n)}, "", now)
		}
	}
	if _, err := Of([]byte("short")); !errdefs.IsInvalidArgument(err) {
		t.Fatal(err)
	}
	if _, err := Load([]*api.Lane{{Id: []byte("short")}}); !errdefs.IsInvalidArgument(err) {
		t.Fatal(err)
	}
}

// TestBounds fills a table: lanes that were seen lately stay, and answers that are too much go.
func TestBounds(t *testing.T) {
	now := time.Now()
	var table Table
	for i := range Max {
		table.Answer(id(i), 1, nil, "", now.Add(time.Duration(i)*time.Second))
	}
	if _, _, err := table.Check(id(Max), 1, now); !errdefs.IsResourceExhausted(err) {
		t.Fatal(err)
	}
	later := now.Add(Keep + time.Second)
	if v, _, err := table.Check(id(Max), 1, later); v != Process || err != nil {
		t.Fatal(v, err)
	}
	_, forget := table.Answer(id(Max), 1, nil, "", later)
	if len(forget) != 1 || ID(forget[0]) != id(0) || table.Len() != Max {
		t.Fatal(forget, table.Len())
	}

	table = Table{}
	big := make([]byte, MaxBytes/4)
	for i := range 6 {
		table.Answer(id(i), 1, big, "", now.Add(time.Duration(i)*time.Second))
	}
	if _, _, err := table.Check(id(0), 1, now); !errdefs.IsAlreadyExists(err) {
		t.Fatal("an answer that is too much:", err)
	}
	if v, l, err := table.Check(id(5), 1, now); v != Repeat || len(l.GetBody()) != len(big) || err != nil {
		t.Fatal(v, err)
	}
	if v, _, err := table.Check(id(0), 2, now); v != Process || err != nil {
		t.Fatal("the lane goes on:", v, err)
	}
}

// TestModel compares a table that is stored and loaded all the time with one that is not.
func TestModel(t *testing.T) {
	now := time.Now()
	var table Table
	stored, last := map[ID]*api.Lane{}, map[ID]uint64{}
	for range 20000 {
		l, n := id(rand.IntN(20)), uint64(rand.IntN(6))
		n = last[l] + n - 2
		v, got, err := table.Check(l, n, now)
		switch {
		case n == last[l]+1:
			if v != Process || err != nil {
				t.Fatal(n, last[l], v, err)
			}
			changed, _ := table.Answer(l, n, binary.AppendUvarint(nil, n), "", now)
			for _, c := range changed {
				stored[ID(c.GetId())] = c
			}
			last[l] = n
		case n == last[l] && n > 0:
			if v != Repeat || err != nil || !bytes.Equal(got.GetBody(), binary.AppendUvarint(nil, n)) {
				t.Fatal(n, v, got, err)
			}
		case err == nil:
			t.Fatal(n, last[l], v)
		}
		if rand.IntN(10) == 0 {
			var all []*api.Lane
			for _, l := range stored {
				all = append(all, l)
			}
			if table, err = Load(all); err != nil {
				t.Fatal(err)
			}
		}
	}
}
