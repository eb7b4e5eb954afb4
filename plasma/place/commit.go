package place

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// together is how many moves a transaction commits: three comparisons each at most (the move, the
// exception, the target), and three more, are within maxOps.
const together = 40

// CommitMoves makes actors change hands, as an instance of the server that has them asks. For
// each move it says why it was refused and never takes place, or nothing if it took place, now or
// by an earlier call. ErrUnavailable: it is not known what came of them; ask again.
func (s *Store) CommitMoves(ctx context.Context, service, source string, instance uint64, moves []*api.Move) (refused []string, err error) {
	actors := map[placement.Actor]bool{}
	for _, m := range moves {
		a := placement.Of(m.GetActor())
		if m.GetId() == "" || m.GetEpoch() == 0 || actors[a] {
			return nil, fmt.Errorf("commit a move %q of %s with epoch %d, or two of the actor: %w", m.GetId(), a, m.GetEpoch(), errdefs.ErrInvalidArgument)
		}
		actors[a] = true
	}
	for part := range slices.Chunk(moves, together) {
		c := &commit{store: s, service: service, source: source, instance: instance, moves: part}
		answers, err := c.run(ctx)
		if err != nil {
			return nil, fmt.Errorf("commit moves from %s: %w", source, err)
		}
		refused = append(refused, answers...)
	}
	return refused, nil
}

// commit is of moves that go into one transaction.
type commit struct {
	store           *Store
	service, source string
	instance        uint64
	moves           []*api.Move

	// What is there, of one revision:

	revision  int64
	instances map[string]Instance // of the source and the targets
	last      uint64              // instance of the source there ever was
	stored    []*Move             // for each move: of its actor
	found     []state             // for each move
	tableAt   int64
	table     *placement.Table // if it matters
}

// state is what else there is of an actor.
type state struct {
	exception           *exception
	moveAt, exceptionAt int64
	moveBroken, broken  bool // there, and can't be read
}

// run tries until nothing has changed between reading and writing.
func (c *commit) run(ctx context.Context) ([]string, error) {
	for range attempts {
		if err := c.read(ctx); err != nil {
			return nil, err
		}
		verdicts := make([]verdict, len(c.moves))
		answers := make([]string, len(c.moves))
		for i := range c.moves {
			var err error
			if verdicts[i], err = c.judge(i); err != nil {
				return nil, err
			}
			answers[i] = verdicts[i].refused
		}
		compares, then := c.write(verdicts)
		if len(then) == 0 {
			return answers, nil
		}
		done, err := c.store.txn(ctx, compares, then, nil)
		if err != nil {
			return nil, err
		}
		if done.Succeeded {
			return answers, nil
		}
	}
	return nil, fmt.Errorf("what they depend on changes all the time: %w", errdefs.ErrUnavailable)
}

// read reads all that the moves depend on.
func (c *commit) read(ctx context.Context) error {
	k := c.store.keys
	servers := []string{c.source}
	for _, m := range c.moves {
		if !slices.Contains(servers, m.GetTo()) {
			servers = append(servers, m.GetTo())
		}
	}
	ops := []clientv3.Op{clientv3.OpGet(k.table(c.service), clientv3.WithKeysOnly()), clientv3.OpGet(k.registered(c.service, c.source))}
	for _, server := range servers {
		ops = append(ops, clientv3.OpGet(k.instance(c.service, server)))
	}
	for _, m := range c.moves {
		a := placement.Of(m.GetActor())
		ops = append(ops, clientv3.OpGet(k.move(c.service, a)), clientv3.OpGet(k.exception(c.service, a)))
	}
	response, err := c.store.txn(ctx, nil, ops, nil)
	if err != nil {
		return err
	}
	next := func() (kvs []*mvccpb.KeyValue) {
		kvs, response.Responses = response.Responses[0].GetResponseRange().Kvs, response.Responses[1:]
		return kvs
	}
	c.revision, c.tableAt, c.table = response.Header.Revision, 0, nil
	if kvs := next(); len(kvs) > 0 {
		c.tableAt = kvs[0].ModRevision
	}
	if c.last, _, err = decodeNumber(next()); err != nil {
		return err
	}
	c.instances = make(map[string]Instance, len(servers))
	for _, server := range servers {
		if kvs := next(); len(kvs) > 0 {
			// One that can't be read is one that isn't there: Instance is 0.
			i, _ := decodeInstance(c.service, server, kvs[0])
			i.Revision = kvs[0].ModRevision
			c.instances[server] = i
		}
	}
	c.stored, c.found = make([]*Move, len(c.moves)), make([]state, len(c.moves))
	tables := false
	for i, m := range c.moves {
		if kvs := next(); len(kvs) > 0 {
			v, err := decodeMove(c.service, placement.Of(m.GetActor()), kvs[0])
			c.stored[i], c.found[i].moveAt, c.found[i].moveBroken = &v, kvs[0].ModRevision, err != nil
		}
		if kvs := next(); len(kvs) > 0 {
			e, err := decodeException(kvs[0])
			c.found[i].exception, c.found[i].exceptionAt, c.found[i].broken = &e, kvs[0].ModRevision, err != nil
		} else {
			tables = true
		}
	}
	if tables {
		c.table, err = c.store.table(ctx, c.service, c.tableAt, c.revision)
	}
	return err
}

// verdict is what comes of a move.
type verdict struct {
	refused string
	take    bool // place, now
	end     bool // delete its key
}

func refuse(end bool, format string, args ...any) verdict {
	return verdict{refused: fmt.Sprintf(format, args...), end: end}
}

// judge decides about a move by what was read. A move that is refused has, or gets, no key: its
// identity is never used again, so an earlier request that is still under way fails, too.
func (c *commit) judge(i int) (verdict, error) {
	m, v, at := c.moves[i], c.stored[i], c.found[i]
	a := placement.Of(m.GetActor())
	if e := at.exception; e != nil && e.Move != "" && (e.Move == m.GetId() || e.Epoch >= m.GetEpoch()) {
		// It took place; since then the actor may even have moved on.
		return verdict{}, nil
	}
	if v == nil || !at.moveBroken && v.ID != m.GetId() {
		return refuse(false, "there is no move %s of %s any more", m.GetId(), a), nil
	}
	source, there := c.instances[c.source]
	switch {
	case c.instance < c.last:
		return refuse(true, "instance %d of %s has registered after %d", c.last, c.source, c.instance), nil
	case c.instance > c.last:
		return refuse(true, "there never was an instance %d of %s", c.instance, c.source), nil
	case !there || source.Instance != c.instance:
		// Its node has lost its lease, and will have a new one.
		return verdict{}, fmt.Errorf("%s is not there at the moment: %w", c.source, errdefs.ErrUnavailable)
	case at.moveBroken || at.broken:
		return refuse(true, "what is stored of %s can't be read", a), nil
	case v.From != c.source || v.To != m.GetTo() || v.Epoch != m.GetEpoch():
		return refuse(true, "move %s is from %s to %s with epoch %d", v.ID, v.From, v.To, v.Epoch), nil
	case c.instances[v.To].Instance == 0 || c.instances[v.To].Instance != m.GetTarget():
		return refuse(true, "instance %d of %s is not there any more", m.GetTarget(), v.To), nil
	}
	owner, known := placement.Owner{}, at.exception != nil
	if known {
		owner = at.exception.owner()
	} else {
		owner, known = c.table.Owner(a.Shard())
	}
	if !known || owner.Server != c.source || owner.Epoch >= v.Epoch {
		return refuse(true, "%s is of %s with epoch %d", a, owner.Server, owner.Epoch), nil
	}
	return verdict{take: true}, nil
}

// write gives the transaction that carries the verdicts out.
func (c *commit) write(verdicts []verdict) (compares []clientv3.Cmp, then []clientv3.Op) {
	k := c.store.keys
	compared := map[string]bool{}
	compare := func(key string, revision int64) {
		if !compared[key] {
			compared[key] = true
			compares = append(compares, unchanged(key, revision))
		}
	}
	for i, v := range verdicts {
		if !v.take && !v.end {
			continue
		}
		m, at := c.moves[i], c.found[i]
		a := placement.Of(m.GetActor())
		move, exceptionKey := k.move(c.service, a), k.exception(c.service, a)
		compare(move, at.moveAt)
		then = append(then, clientv3.OpDelete(move))
		if !v.take {
			continue
		}
		compare(k.instance(c.service, c.source), c.instances[c.source].Revision)
		compare(k.instance(c.service, m.GetTo()), c.instances[m.GetTo()].Revision)
		compare(exceptionKey, at.exceptionAt)
		if at.exception == nil {
			compare(k.table(c.service), c.tableAt)
		}
		then = append(then, clientv3.OpPut(exceptionKey, encode(exception{Server: m.GetTo(), Epoch: m.GetEpoch(), Move: m.GetId()})))
	}
	return compares, then
}
