package firewall

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// kernel sends transactions to nf_tables over one socket. It is used by one goroutine at
// a time.
type kernel struct {
	ns   *os.File // where the socket is made
	conn *nftables.Conn
}

// Socket buffers. A transaction is one message and must fit: some 300 bytes for each
// endpoint and 50 for each other node. They bound, they don't allocate.
const (
	sendBuffer    = 64 << 20
	receiveBuffer = 8 << 20
)

// maxElements bounds the elements of one message, whose list has a 16-bit length in
// bytes; the largest element takes 100.
const maxElements = 500

func (k *kernel) dial() (*nftables.Conn, error) {
	if k.conn != nil {
		return k.conn, nil
	}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(k.ns.Fd())), nftables.WithSockOptions(func(c *netlink.Conn) error {
		if err := c.SetWriteBuffer(sendBuffer); err != nil {
			return err
		}
		return c.SetReadBuffer(receiveBuffer)
	}))
	if err != nil {
		return nil, fmt.Errorf("open a netfilter socket: %w", err)
	}
	k.conn = conn
	return conn, nil
}

// hangUp forgets the socket, and with it what is queued and what was not read.
func (k *kernel) hangUp() {
	if k.conn != nil {
		_ = k.conn.CloseLasting()
		k.conn = nil
	}
}

// transact sends what f queues as one transaction: all of it is done or nothing.
func (k *kernel) transact(f func(*nftables.Conn) error) error {
	conn, err := k.dial()
	if err != nil {
		return err
	}
	if err = f(conn); err == nil {
		err = conn.Flush()
	}
	// Each message of a transaction that names something absent is answered; after any
	// other error it is not known what is still to be read.
	if err != nil && !errors.Is(err, unix.ENOENT) {
		k.hangUp()
	}
	return explain(err)
}

// explain adds what the operator can do.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("nftables: %w (%w); run as root with CAP_NET_ADMIN", errdefs.ErrPermissionDenied, err)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("nftables: %w (%w); the kernel needs nf_tables with inet, bridge, nat, masq and fib", errdefs.ErrNotImplemented, err)
	case errors.Is(err, unix.EMSGSIZE), errors.Is(err, unix.ENOBUFS):
		return fmt.Errorf("nftables: %w (%w); the state is too large for one transaction", errdefs.ErrResourceExhausted, err)
	}
	return err
}

// remake queues a table anew. What was in it goes; adding it before makes deleting it
// sure. Connections are no part of a table.
func remake(conn *nftables.Conn, t table, contents elements) error {
	remove(conn, t.family)
	nt := conn.AddTable(&nftables.Table{Family: t.family, Name: tableName})
	for i, s := range t.sets {
		if err := addSet(conn, s.in(nt, uint32(i+1)), contents[s.name]); err != nil {
			return fmt.Errorf("set %s: %w", s.name, err)
		}
	}
	chains := make([]*nftables.Chain, len(t.chains))
	for i, c := range t.chains {
		chains[i] = &nftables.Chain{Name: c.name, Table: nt}
		if c.hook != nil {
			accept := nftables.ChainPolicyAccept
			chains[i].Type, chains[i].Hooknum, chains[i].Priority, chains[i].Policy = c.kind, c.hook, c.priority, &accept
		}
		conn.AddChain(chains[i])
	}
	for i, c := range t.chains {
		for _, r := range c.rules {
			conn.AddRule(&nftables.Rule{Table: nt, Chain: chains[i], Exprs: []expr.Any(r)})
		}
	}
	return nil
}

func remove(conn *nftables.Conn, family nftables.TableFamily) {
	nt := conn.AddTable(&nftables.Table{Family: family, Name: tableName})
	conn.DelTable(nt)
}

// in is the set as the library has it. The ID is given here because the library's own
// come from a variable that all connections share without a lock.
func (s set) in(t *nftables.Table, id uint32) *nftables.Set {
	ns := &nftables.Set{
		Table: t, Name: s.name, ID: id, KeyType: s.key[0],
		Interval: s.interval, Dynamic: s.counters,
	}
	if s.key[0] == nftables.TypeIFName {
		ns.KeyByteOrder = binaryutil.NativeEndian // for nft, which else shows no names
	}
	if len(s.key) > 1 {
		ns.KeyType = nftables.MustConcatSetType(s.key...)
		ns.Concatenation = true
	}
	if s.counters {
		ns.Size = maxDrops
	}
	return ns
}

func addSet(conn *nftables.Conn, s *nftables.Set, all []nftables.SetElement) error {
	if err := conn.AddSet(s, nil); err != nil {
		return err
	}
	for part := range slices.Chunk(all, maxElements) {
		if err := conn.SetAddElements(s, part); err != nil {
			return err
		}
	}
	return nil
}
