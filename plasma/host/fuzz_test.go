package host

import (
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// FuzzDeliver takes in what another process could send.
func FuzzDeliver(f *testing.F) {
	good, err := proto.Marshal(&api.DeliverRequest{
		To: &api.Actor{Type: "T", Key: "1"}, Function: "f", Lane: make([]byte, 16), Number: 1,
		Chain: []*api.Actor{{Type: "T", Key: "2"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		req := new(api.DeliverRequest)
		if proto.Unmarshal(b, req) != nil {
			return
		}
		m, err := messageOf(placement.Of(req.GetTo()), req)
		switch {
		case err == nil && (m.number == 0 || len(m.chain) > maxChain):
			t.Fatal(m)
		case err != nil && !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err):
			t.Fatal(err)
		}
	})
}

// FuzzTransfer takes in an actor that comes from another host, or was stored.
func FuzzTransfer(f *testing.F) {
	good, err := proto.Marshal(&api.TransferRequest{
		Actor: &api.Actor{Type: "T", Key: "1"}, Lanes: []*api.Lane{{Id: make([]byte, 16), Last: 3}},
		Outbox: []*api.Send{{To: &api.Actor{Type: "T"}, Lane: make([]byte, 16), Number: 4}},
		Timers: []*api.Timer{{Name: "t", At: 5}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		req := new(api.TransferRequest)
		if proto.Unmarshal(b, req) != nil {
			return
		}
		h := &Host{clock: newClock()}
		a := h.newActor(placement.Of(req.GetActor()), &Type{Durable: EachTurn})
		a.phase = arriving
		if err := a.take(req); err != nil {
			if !errdefs.IsInvalidArgument(err) && !errdefs.IsDataLoss(err) {
				t.Fatal(err)
			}
			return
		}
		if a.outbox.count != len(req.GetOutbox()) || len(a.outbox.all()) != len(req.GetOutbox()) {
			t.Fatal("messages are lost")
		}
	})
}
