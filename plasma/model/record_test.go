package model_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/model"
)

func snapshot() model.Snapshot {
	return model.Snapshot{
		Version: model.Version, At: time.Hour, Window: 5 * time.Second,
		Nodes:   []model.Node{{ID: "n", Zone: "z", Capacity: model.Resources{CPU: 4}}},
		Servers: []model.Server{{ID: "s", State: model.Up, Limit: model.Resources{CPU: 1}, Metrics: map[string]float64{"x": 1}}},
		Actors: []model.Actor{
			{ID: "a", Type: "A", Refs: []model.Ref{{Name: "b", To: 1}}, Latency: model.Latency{P99: 7}},
			{ID: "b", Type: "B", Server: -1},
		},
		Calls: []model.Call{{From: model.Client, To: 0, Function: "f", Count: 1}, {From: 0, To: 1, Function: "g"}},
	}
}

func TestRecord(t *testing.T) {
	var file bytes.Buffer
	r, err := model.NewRecorder(&file, "true => pin(A);", true)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Minute
	want := model.Step{
		Snapshot: snapshot(),
		Before:   model.Memory{Moves: map[string]model.Moved{"a": {At: 3, From: "s"}}, ScaledOut: &at},
		Plan: model.Plan{
			Version: model.Version, Actions: []model.Action{{Verb: model.Move, To: 1, Reason: "why"}},
			Decisions: []model.Decision{{Rule: "r", Actions: []int{0}}},
		},
	}
	for range 2 {
		if err := r.Write(&want); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	p, err := model.NewReplay(&file)
	if err != nil || p.Header.Policy != "true => pin(A);" || !p.Header.Paper {
		t.Fatalf("%+v, %v", p, err)
	}
	for range 2 {
		got, err := p.Next()
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Fatalf("read %+v, %v; want %+v", got, err, want)
		}
	}
	if _, err := p.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

func TestRecordIsRefused(t *testing.T) {
	head := `{"format":"plasma-record","version":1,"policy":""}` + "\n"
	for _, test := range []struct{ text, want string }{
		{"", "line 1 of the record: it is empty"},
		{"x", "line 1 of the record: invalid character"},
		{`{"format":"plasma-record","version":2}`, "version 2: want plasma-record, version 1"},
		{head + "{", "line 2 of the record: unexpected end"},
		{head + `{"snapshot":{"version":1}}`, "line 2 of the record: the window is 0s"},
	} {
		p, err := model.NewReplay(strings.NewReader(test.text))
		if err == nil {
			_, err = p.Next()
		}
		if err == nil || !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want %q", test.text, err, test.want)
		}
	}
}

func TestValidate(t *testing.T) {
	if s := snapshot(); s.Validate() != nil {
		t.Fatal(s.Validate())
	}
	for _, test := range []struct {
		change func(*model.Snapshot)
		want   string
	}{
		{func(s *model.Snapshot) { s.Version = 2 }, "version 2"},
		{func(s *model.Snapshot) { s.Window = 0 }, "window is 0s"},
		{func(s *model.Snapshot) { s.Nodes[0].ID = "" }, "node 0 has no id"},
		{func(s *model.Snapshot) { s.Servers = append(s.Servers, s.Servers[0]) }, "two of server s"},
		{func(s *model.Snapshot) { s.Servers[0].State = "gone" }, `server s is "gone"`},
		{func(s *model.Snapshot) { s.Servers[0].Node = 1 }, "on node 1, of 1"},
		{func(s *model.Snapshot) { s.Servers[0].Usage.CPU = -1 }, "amount of -1"},
		{func(s *model.Snapshot) { s.Actors[0].Type = "" }, "no type"},
		{func(s *model.Snapshot) { s.Actors[0].Server = 1 }, "on server 1, of 1"},
		{func(s *model.Snapshot) { s.Actors[0].Refs[0].To = 2 }, "refers to actor 2, of 2"},
		{func(s *model.Snapshot) { s.Calls[0].From = -2 }, "from actor -2"},
		{func(s *model.Snapshot) { s.Calls[0].To = -1 }, "to actor -1"},
	} {
		s := snapshot()
		test.change(&s)
		if err := s.Validate(); err == nil || !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
}

func FuzzReplay(f *testing.F) {
	one, _ := json.Marshal(model.Step{Snapshot: snapshot()})
	f.Add([]byte(`{"format":"plasma-record","version":1}` + "\n" + string(one) + "\n"))
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := model.NewReplay(bytes.NewReader(text))
		for err == nil {
			_, err = p.Next()
		}
	})
}
