package place

import (
	"encoding/json"
	"fmt"
	"strconv"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// exception is where an actor is that is not where its shard is.
type exception struct {
	Server string `json:"s"`
	Epoch  uint64 `json:"e"`
	// Move is the one that brought it there. By it a commit that is repeated knows that it took
	// place.
	Move string `json:"m,omitempty"`
}

func (e exception) owner() placement.Owner { return placement.Owner{Server: e.Server, Epoch: e.Epoch} }

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("a record that JSON can't express: " + err.Error()) // numbers are checked before
	}
	return string(b)
}

// The identity of what is decoded is its key's, which can't be wrong; the rest is checked.

func decodeMember(node string, kv *mvccpb.KeyValue) (m Member, err error) {
	if err := json.Unmarshal(kv.Value, &m); err != nil {
		return m, err
	}
	m.Node = node
	return m, finite(m.Capacity)
}

func decodeService(name string, kv *mvccpb.KeyValue) (v Service, err error) {
	err = json.Unmarshal(kv.Value, &v)
	v.Name, v.Version = name, uint64(kv.Version)
	return v, err
}

func decodeServer(service, id string, kv *mvccpb.KeyValue) (v Server, err error) {
	if err := json.Unmarshal(kv.Value, &v); err != nil {
		return v, err
	}
	v.Service, v.ID, v.Version = service, id, uint64(kv.Version)
	return v, v.check()
}

func (s Server) check() error {
	switch s.State {
	case model.Starting, model.Up, model.Draining:
	default:
		return fmt.Errorf("server %s is %q: want starting, up or draining", s.ID, s.State)
	}
	if s.Node == "" {
		return fmt.Errorf("server %s has no node", s.ID)
	}
	return finite(s.Limit)
}

func decodeInstance(service, server string, kv *mvccpb.KeyValue) (v Instance, err error) {
	if err := json.Unmarshal(kv.Value, &v); err != nil {
		return v, err
	}
	v.Service, v.Server, v.Revision = service, server, kv.ModRevision
	if v.Instance == 0 || v.Node == "" {
		return v, fmt.Errorf("instance %d of node %q", v.Instance, v.Node)
	}
	return v, nil
}

func decodeMove(service string, a placement.Actor, kv *mvccpb.KeyValue) (v Move, err error) {
	if err := json.Unmarshal(kv.Value, &v); err != nil {
		return v, err
	}
	v.Service, v.Actor = service, a
	return v, v.check()
}

func (m Move) check() error {
	if m.ID == "" || m.From == "" || m.To == "" || m.Epoch == 0 || m.From == m.To {
		return fmt.Errorf("move %q of %s from %q to %q with epoch %d", m.ID, m.Actor, m.From, m.To, m.Epoch)
	}
	return nil
}

func decodeException(kv *mvccpb.KeyValue) (e exception, err error) {
	if err := json.Unmarshal(kv.Value, &e); err != nil {
		return e, err
	}
	if e.Server == "" {
		return e, fmt.Errorf("an owner without a name")
	}
	return e, nil
}

// decodeNumber reads a counter; a key that is not there is 0.
func decodeNumber(kvs []*mvccpb.KeyValue) (n uint64, revision int64, err error) {
	if len(kvs) == 0 {
		return 0, 0, nil
	}
	n, err = strconv.ParseUint(string(kvs[0].Value), 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("%s is not a number: %w", kvs[0].Key, err)
	}
	return n, kvs[0].ModRevision, nil
}

// finite refuses amounts that are not numbers or negative.
func finite(r model.Resources) error {
	for _, v := range []float64{r.CPU, r.Mem, r.Net} {
		if !(v >= 0 && v <= 1e300) {
			return fmt.Errorf("an amount of %v", v)
		}
	}
	return nil
}
