// Package host runs actors: the process in a server of a service that has them, or a part of
// one. It brings messages to them wherever they are, one turn at a time, stores them, and moves
// them to other hosts when plasmad asks.
//
// A message of an actor or a client has one effect on an actor that is durable each turn,
// whatever dies; Call made within a turn is the exception, see Turn. Each message that is sent by
// Turn.Send arrives, in the order of the sender.
//
// When the process dies its actors wait until it is started again. When plasmad dies the host
// serves on; moves and new placements wait. Tests can kill the process at the steps that package
// failpoint names.
package host

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/host/peer"
	"github.com/peregrine-dev/peregrine/plasma/host/store"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// protocol is the version of the protocol.
const protocol = 1

// Host is a host that serves. Its methods may be called by several goroutines at once.
type Host struct {
	ctx    context.Context // of turns and all else; ends last
	cancel context.CancelFunc
	limits Limits
	types  map[string]*Type
	server string
	inst   atomic.Uint64
	lease  lease
	tick   atomic.Uint32 // coarse clock: steps of tickLength
	late   chan struct{} // has one in it when a message has waited too long
	ready  atomic.Bool

	store    *store.Store // nil if no type is durable
	owners   *owners
	router   *router
	agent    *agent
	clock    *clock
	table    [stripes]stripe
	count    atomic.Int64 // actors in memory
	arriving atomic.Int64 // of them, those on their way here

	crowded chan struct{} // there are too many
	idle    chan *actor   // to workers that wait
	idlers  atomic.Int32

	frozen  bool // all stripes' mu guard it
	thawMu  sync.Mutex
	thaw    chan struct{} // closed when it ends
	moves   sync.Mutex    // guards moving
	moving  map[placement.Actor]bool
	request *api.RegisterRequest

	work    sync.WaitGroup // turns, deliveries, moves
	loops   sync.WaitGroup
	serving sync.WaitGroup
	servers []*ttrpc.Server
	sockets []net.Listener
	stopped atomic.Bool
	failed  chan error // why it must stop
	close   sync.Once
	closed  error
}

// Run serves until ctx ends, then stores what there is and stops. It ends earlier with an error
// when the host may not go on.
func Run(ctx context.Context, o Options) error {
	h, err := Start(ctx, o)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case err = <-h.failed:
	}
	return errors.Join(err, h.Close())
}

// Start starts a host and returns when it serves. ctx ends the start only; the caller closes the
// host. Options that are empty are taken from the environment: see FromEnv.
func Start(ctx context.Context, o Options) (*Host, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	h := &Host{
		limits: o.Limits, types: map[string]*Type{}, owners: newOwners(), clock: newClock(),
		agent: &agent{socket: o.Agent}, crowded: make(chan struct{}, 1), late: make(chan struct{}, 1), idle: make(chan *actor), thaw: closedChan(),
		moving: map[placement.Actor]bool{}, failed: make(chan error, 1), request: &api.RegisterRequest{Version: protocol},
	}
	h.ctx, h.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for i := range h.table {
		h.table[i].actors = map[placement.Actor]*actor{}
	}
	durable := false
	for _, t := range o.Types {
		t = t.withDefaults()
		h.types[t.Name] = &t
		durable = durable || t.Durable != None
		h.request.Types = append(h.request.Types, &api.Type{Name: t.Name, Durable: string(t.Durable), Functions: t.Functions})
	}
	if durable {
		var err error
		if h.store, err = store.Open(o.State); err != nil {
			h.cancel()
			return nil, err
		}
	}
	if err := h.start(ctx, o); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *Host) start(ctx context.Context, o Options) error {
	control, err := h.listen("unix", o.Control)
	if err != nil {
		return err
	}
	var far net.Listener
	if o.Address != "" {
		if far, err = h.listen("tcp", o.Listen); err != nil {
			return err
		}
		_, port, err := net.SplitHostPort(far.Addr().String())
		if err != nil {
			return err
		}
		h.request.Address = net.JoinHostPort(o.Address, port)
	}
	resp, asked, err := h.agent.register(ctx, h.request)
	if err != nil {
		return err
	}
	h.server = resp.GetServer()
	h.inst.Store(resp.GetInstance())
	h.lease.renew(asked, resp.GetLease())
	certificate, err := certificateOf(resp)
	if err != nil {
		return err
	}
	h.router = &router{
		self: h.server, local: h.local, owners: h.owners, closed: h.ctx.Done(),
		pool: peer.NewPool(resp.GetNode(), o.Peers, certificate),
	}
	near, err := h.listen("unix", peer.Socket(o.Peers, h.server))
	if err != nil {
		return err
	}
	first := make(chan struct{})
	h.loop(func() { h.agent.watch(h.ctx, h.owners, first, h.applied) })
	select {
	case <-first:
	case <-ctx.Done():
		return fmt.Errorf("wait for the placement: %w", ctx.Err())
	}
	if err := h.owners.view.Await(ctx, resp.GetRevision()); err != nil {
		return fmt.Errorf("wait for the placement: %w", err)
	}
	if err := h.recover(); err != nil {
		return err
	}
	h.loop(func() { h.clock.run(h.ctx, h.fire) })
	h.loop(h.tidy)
	h.loop(h.beat)
	h.loop(h.report)
	h.serve(control, func(s *ttrpc.Server) { api.RegisterHostService(s, hostService{h}) })
	h.serve(near, func(s *ttrpc.Server) { api.RegisterPeerService(s, peerService{h}) })
	switch {
	case far != nil && certificate != nil:
		h.serve(tls.NewListener(far, peer.TLS(certificate)), func(s *ttrpc.Server) { api.RegisterPeerService(s, peerService{h}) })
	case far != nil:
		far.Close()
	}
	return nil
}

func certificateOf(resp *api.RegisterResponse) (*tls.Certificate, error) {
	if len(resp.GetCertificate()) == 0 {
		return nil, nil
	}
	c, err := tls.X509KeyPair(resp.GetCertificate(), resp.GetKey())
	if err != nil {
		return nil, fmt.Errorf("the service's certificate: %w", err)
	}
	return &c, nil
}

// listen listens; a socket of a host that has died is replaced.
func (h *Host) listen(network, address string) (net.Listener, error) {
	if network == "unix" {
		if err := os.MkdirAll(filepath.Dir(address), 0o700); err != nil {
			return nil, fmt.Errorf("make the directory of a socket: %w", err)
		}
		if info, err := os.Lstat(address); err == nil {
			if info.Mode().Type() != os.ModeSocket {
				return nil, fmt.Errorf("%s is not a socket: %w", address, errdefs.ErrAlreadyExists)
			}
			if err := os.Remove(address); err != nil {
				return nil, fmt.Errorf("replace a socket: %w", err)
			}
		}
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	h.sockets = append(h.sockets, l)
	return l, nil
}

func (h *Host) serve(l net.Listener, register func(*ttrpc.Server)) {
	s, err := ttrpc.NewServer()
	if err != nil {
		panic(err) // it fails for options only
	}
	register(s)
	h.servers = append(h.servers, s)
	h.serving.Go(func() {
		if err := s.Serve(h.ctx, l); err != nil && !errors.Is(err, ttrpc.ErrServerClosed) && !errors.Is(err, net.ErrClosed) && !h.stopped.Load() {
			h.fail(fmt.Errorf("serve %s: %w", l.Addr(), err))
		}
	})
}

func (h *Host) loop(f func()) { h.loops.Go(f) }

// fail says that the host must stop.
func (h *Host) fail(err error) {
	log.G(h.ctx).WithError(err).Error("the host can't go on")
	select {
	case h.failed <- err:
	default:
	}
}

// Failed gives the reason for which the host can't go on, once, and should be closed.
func (h *Host) Failed() <-chan error { return h.failed }

// Call calls an actor of the service, wherever it is, and waits for its answer until ctx ends.
// An *Error is the application's. Other errors: ErrNotFound is a type or function that there
// isn't, ErrResourceExhausted a full mailbox, ErrFailedPrecondition a call whose effect is not
// known, ErrAborted a turn that could not be stored.
func (h *Host) Call(ctx context.Context, to placement.Actor, function string, body []byte) ([]byte, error) {
	if err := checkMessage(to, function, body); err != nil {
		return nil, err
	}
	return h.router.call(ctx, &outgoing{to: to, function: function, body: body})
}

// Send is Call for those who do not want the answer: it returns when the message has had its
// effect, also if that is an error of the application.
func (h *Host) Send(ctx context.Context, to placement.Actor, function string, body []byte) error {
	return dropAnswer(h.Call(ctx, to, function, body))
}

func dropAnswer(_ []byte, err error) error {
	var app *Error
	if errors.As(err, &app) {
		return nil
	}
	return err
}

// Server gives the name of the server that the host is in.
func (h *Host) Server() string { return h.server }

// Close stores all actors and stops. Turns under way are waited for, until their contexts end.
func (h *Host) Close() error {
	h.close.Do(func() { h.closed = h.stop() })
	return h.closed
}

// closeGrace is how long Close waits for turns before it ends their contexts.
const closeGrace = 2 * time.Second

func (h *Host) stop() error {
	h.moves.Lock()
	h.stopped.Store(true) // no move begins after this
	h.moves.Unlock()
	h.ready.Store(false)
	for _, l := range h.sockets {
		l.Close()
	}
	h.retire()
	h.cancel()
	for _, s := range h.servers {
		s.Close()
	}
	h.serving.Wait()
	h.loops.Wait()
	h.work.Wait()
	if h.router != nil {
		h.router.pool.Close()
	}
	h.agent.close()
	if h.store != nil {
		return h.store.Close()
	}
	return nil
}

// retire lets turns end, stores what is not stored, and answers what waits.
func (h *Host) retire() {
	ctx, cancel := context.WithTimeout(h.ctx, closeGrace)
	defer cancel()
	h.each(func(a *actor) {
		a.mu.Lock()
		defer a.mu.Unlock()
		held := a.phase == leaving || a.phase == arriving
		if a.phase == serving {
			a.phase = leaving
		}
		a.stopSends()
		a.drain(errClosed)
		if a.wait(ctx, func() bool { return !a.running && a.inflight == 0 && !a.outbox.busy() }) != nil {
			h.cancel() // a turn that takes too long
			_ = a.wait(context.WithoutCancel(ctx), func() bool { return !a.running && a.inflight == 0 && !a.outbox.busy() })
		}
		if !held {
			a.save()
			_ = a.wait(context.WithoutCancel(ctx), func() bool { return a.inflight == 0 })
		}
		a.phase = gone
		a.drain(errClosed)
	})
}

func closedChan() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
