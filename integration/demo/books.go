package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/plasma/api"
)

// books are clients that write numbers into ledgers, one client for each ledger, one number after
// the other.
type books struct {
	cluster api.ClusterClient
	conn    *grpc.ClientConn
	stop    context.CancelFunc
	clients *errgroup.Group
	once    sync.Once
	failed  error

	mu      sync.Mutex
	written [ledgers]int64
	longest time.Duration
}

// slowCall bounds a write, which is made again then: a server may be starting.
const slowCall = 20 * time.Second

// open has the clients begin, by way of a node's plasmad.
func open(ctx context.Context, by *harness.PlasmaNode) (*books, error) {
	cluster, conn, err := by.Cluster()
	if err != nil {
		return nil, err
	}
	b := &books{cluster: cluster, conn: conn}
	ctx, b.stop = context.WithCancel(ctx)
	b.clients, ctx = errgroup.WithContext(ctx)
	for i := range ledgers {
		b.clients.Go(func() error { return b.write(ctx, i) })
	}
	return b, nil
}

// write writes until ctx is done. A number that was begun is ended, so that it is known.
func (b *books) write(ctx context.Context, ledger int) error {
	for number := int64(1); ctx.Err() == nil; number++ {
		began := time.Now()
		answer, err := b.call(context.WithoutCancel(ctx), ledger, "put", fmt.Sprint("me ", number))
		if err != nil {
			return fmt.Errorf("write %d into ledger %d: %w", number, ledger, err)
		}
		if answer != fmt.Sprint(number) {
			return fmt.Errorf("ledger %d answers %s to %d", ledger, answer, number)
		}
		b.mu.Lock()
		b.written[ledger], b.longest = number, max(b.longest, time.Since(began))
		b.mu.Unlock()
	}
	return nil
}

func (b *books) call(ctx context.Context, ledger int, function, body string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, slowCall)
	defer cancel()
	r, err := b.cluster.Call(ctx, &api.CallRequest{
		Service: "ledger", To: &api.Actor{Type: "Ledger", Key: fmt.Sprint(ledger)}, Function: function, Body: []byte(body),
	})
	if err == nil && r.GetError() != "" {
		err = errors.New(r.GetError())
	}
	return string(r.GetBody()), err
}

// forget begins to look for the slowest write anew.
func (b *books) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.longest = 0
}

func (b *books) slowest() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.longest
}

// round waits until each ledger has taken two numbers more: the second was begun after now.
func (b *books) round(ctx context.Context) error {
	b.mu.Lock()
	before := b.written
	b.mu.Unlock()
	for end := time.Now().Add(slowCall); time.Now().Before(end); {
		done := true
		b.mu.Lock()
		for i, n := range b.written {
			done = done && n >= before[i]+2
		}
		b.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return errors.New("not all ledgers take numbers again")
}

// end has the clients end, once.
func (b *books) end() error {
	b.once.Do(func() {
		b.stop()
		b.failed = b.clients.Wait()
	})
	return b.failed
}

// audit ends the clients and reads all ledgers: how many numbers were written, and how many of
// them are missing, or came twice or in another order.
func (b *books) audit(ctx context.Context) (written, wrong int64, err error) {
	if err := b.end(); err != nil {
		return 0, 0, err
	}
	for i := range ledgers {
		text, err := b.call(ctx, i, "read", "")
		if err != nil {
			return 0, 0, err
		}
		var has struct {
			Last, Count map[string]int64
			Wrong       []string
		}
		if err := json.Unmarshal([]byte(text), &has); err != nil {
			return 0, 0, fmt.Errorf("ledger %d has %s: %w", i, text, err)
		}
		written += b.written[i]
		wrong += int64(len(has.Wrong)) + distance(has.Last["me"], b.written[i]) + distance(has.Count["me"], b.written[i])
	}
	return written, wrong, nil
}

func distance(a, b int64) int64 { return max(a-b, b-a) }

// close ends what audit didn't.
func (b *books) close() error { return errors.Join(b.end(), b.conn.Close()) }
