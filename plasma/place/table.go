package place

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// tableRecord is a table as it is stored.
type tableRecord struct {
	Servers []string `json:"servers"`
	Owners  []byte   `json:"owners"`
	Epochs  []byte   `json:"epochs"`
}

func encodeTable(t *placement.Table) string {
	r := tableRecord{Servers: t.Servers, Owners: make([]byte, 0, 2*placement.Shards), Epochs: make([]byte, 0, 2*placement.Shards)}
	for i := range placement.Shards {
		r.Owners = binary.LittleEndian.AppendUint16(r.Owners, t.Owners[i])
		r.Epochs = binary.AppendUvarint(r.Epochs, t.Epochs[i])
	}
	return encode(r)
}

func decodeTable(value []byte) (*placement.Table, error) {
	var r tableRecord
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, err
	}
	if len(r.Owners) != 2*placement.Shards {
		return nil, fmt.Errorf("owners of %d bytes: want %d", len(r.Owners), 2*placement.Shards)
	}
	t := &placement.Table{Servers: r.Servers}
	for i := range placement.Shards {
		t.Owners[i] = binary.LittleEndian.Uint16(r.Owners[2*i:])
		n := 0
		if t.Epochs[i], n = binary.Uvarint(r.Epochs); n <= 0 {
			return nil, fmt.Errorf("shard %d has no epoch", i)
		}
		r.Epochs = r.Epochs[n:]
	}
	if len(r.Epochs) > 0 {
		return nil, fmt.Errorf("%d bytes after the epochs", len(r.Epochs))
	}
	return t, checkTable(t)
}

// checkTable refuses tables that hosts would not take. One without servers has no owners.
func checkTable(t *placement.Table) error {
	for i := 1; i < len(t.Servers); i++ {
		if t.Servers[i-1] >= t.Servers[i] {
			return fmt.Errorf("servers of a table are not in order, or twice there: %q", t.Servers)
		}
	}
	if slices.Contains(t.Servers, "") {
		return fmt.Errorf("a server of a table has no name")
	}
	for i, o := range t.Owners {
		if int(o) >= len(t.Servers) && len(t.Servers) > 0 {
			return fmt.Errorf("shard %d has owner %d of %d", i, o, len(t.Servers))
		}
	}
	return nil
}

// table gives a service's table as it is at a revision of etcd's, when the key has another. Most
// commits find the table that the last one found.
func (s *Store) table(ctx context.Context, service string, modified, at int64) (*placement.Table, error) {
	if modified == 0 {
		return &placement.Table{}, nil
	}
	s.mu.Lock()
	known := s.tables[service]
	s.mu.Unlock()
	if known.revision == modified {
		return known.table, nil
	}
	response, err := s.client.Get(ctx, s.keys.table(service), clientv3.WithRev(at))
	if err != nil {
		return nil, unavailable(err)
	}
	if len(response.Kvs) != 1 || response.Kvs[0].ModRevision != modified {
		return nil, fmt.Errorf("the table of %s at revision %d is not that of revision %d", service, at, modified)
	}
	t, err := decodeTable(response.Kvs[0].Value)
	if err != nil {
		return nil, fmt.Errorf("the table of %s: %w", service, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.tables) >= maxTables {
		clear(s.tables)
	}
	if s.tables[service].revision < modified {
		s.tables[service] = tableAt{modified, t}
	}
	return t, nil
}

// maxTables bounds how many services' tables commits remember: 40 KB each.
const maxTables = 64
