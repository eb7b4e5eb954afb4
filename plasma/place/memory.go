package place

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/peregrine-dev/peregrine/plasma/model"
)

const (
	maxStored = 1 << 20  // bytes of a memory in etcd, which takes 1.5 MiB
	maxMemory = 64 << 20 // bytes of its JSON
)

// Remember stores the planner's memory for the next manager, if it has changed.
// ErrResourceExhausted: it is too large.
func (s *Store) Remember(ctx context.Context, l *Leadership, service string, m model.Memory) error {
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("remember %s: %w: %w", service, err, errdefs.ErrInvalidArgument)
	}
	sum := sha256.Sum256(text)
	l.mu.Lock()
	same := l.remembered[service] == sum
	l.mu.Unlock()
	if same {
		return nil
	}
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		return err
	}
	_, _ = w.Write(text) // into memory
	_ = w.Close()
	if b.Len() > maxStored || len(text) > maxMemory {
		return fmt.Errorf("remember %s: %d bytes, %d compressed: %w", service, len(text), b.Len(), errdefs.ErrResourceExhausted)
	}
	if _, err := l.txn(ctx, nil, []clientv3.Op{clientv3.OpPut(s.keys.memory(service), b.String())}, nil); err != nil {
		return fmt.Errorf("remember %s: %w", service, err)
	}
	l.mu.Lock()
	l.remembered[service] = sum
	l.mu.Unlock()
	return nil
}

// Memory gives the planner's memory; the zero value if there is none or it can't be read.
func (s *Store) Memory(ctx context.Context, service string) (model.Memory, error) {
	response, err := s.client.Get(ctx, s.keys.memory(service))
	if err != nil {
		return model.Memory{}, fmt.Errorf("read the memory of %s: %w", service, unavailable(err))
	}
	if len(response.Kvs) == 0 {
		return model.Memory{}, nil
	}
	m, err := decodeMemory(response.Kvs[0].Value)
	if err != nil {
		log.G(ctx).WithError(err).WithField("service", service).Warn("the planner begins anew: its memory can't be read")
		return model.Memory{}, nil
	}
	return m, nil
}

func decodeMemory(value []byte) (m model.Memory, err error) {
	r, err := gzip.NewReader(bytes.NewReader(value))
	if err != nil {
		return m, err
	}
	text, err := io.ReadAll(io.LimitReader(r, maxMemory+1))
	if err != nil {
		return m, err
	}
	if len(text) > maxMemory {
		return m, fmt.Errorf("more than %d bytes", maxMemory)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return model.Memory{}, err
	}
	return m, nil
}
