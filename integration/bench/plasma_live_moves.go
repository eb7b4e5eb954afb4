package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/peregrine-dev/peregrine/plasma/api"
)

// pausing measures how long an actor stands still that moves, on one node and between nodes, and
// what others feel of it.
func (b *plasmaBench) pausing(ctx context.Context) error {
	l, err := b.single(ctx)
	if err != nil {
		return err
	}
	if err := b.pausingIn(ctx, l, "", "two servers of a node"); err != nil {
		return err
	}
	if b.wants("others-p99-while-moving") {
		if err := b.others(ctx, l); err != nil {
			return err
		}
	}
	return l.ends(ctx, "moves")
}

// pausingFar is pausing between three nodes.
func (b *plasmaBench) pausingFar(ctx context.Context) (err error) {
	l, err := b.startLive(ctx, 3, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close(ctx)) }()
	return b.pausingIn(ctx, l, "/3-nodes", "three servers, each on its node, with three members of etcd")
}

func (b *plasmaBench) pausingIn(ctx context.Context, l *plasmaLive, suffix, where string) error {
	b.Progress("measuring moves", 0, 0)
	servers := max(2, len(l.Nodes))
	if err := l.runs(ctx, "moves", "", servers, ""); err != nil {
		return err
	}
	for _, size := range []struct {
		name  string
		bytes int
		bound float64
		n     int
	}{{"1KiB", 1 << 10, 10, 500}, {"1MiB", 1 << 20, 50, 200}} {
		n, end := size.n, time.Now().Add(time.Minute)
		if b.Quick {
			n, end = 100, time.Now().Add(2*time.Second)
		}
		key := "b-" + size.name
		if _, err := l.call(ctx, "moves", "Blob", key, "size", fmt.Sprint(size.bytes)); err != nil {
			return err
		}
		var seen, told Series
		for i := 0; i < n && (i < 3 || time.Now().Before(end)); i++ {
			before, err := l.metrics(stoodStill)
			if err != nil {
				return err
			}
			m, err := l.moves(ctx, key, fmt.Sprintf("moves-%d", i%servers+1))
			if err != nil {
				return err
			}
			if m.moved {
				after, err := l.metrics(stoodStill)
				if err != nil {
					return err
				}
				seen, told = append(seen, milliseconds(m.longest-m.usual)), append(told, 1e3*(after-before))
			}
		}
		b.against("move-pause-"+size.name+suffix, Milliseconds, seen, size.bound, fmt.Sprintf(
			"%s; the longest answer to a client that calls all the time, less the usual one; by the hosts' own count the actor stood still for %s ms, p99 %s; the bound is for the p99",
			where, Digits(told.Median()), Digits(told.quantile(0.99))))
	}
	return nil
}

// seenMove is what a client sees of a move.
type seenMove struct {
	began, ended   time.Time
	longest, usual time.Duration
	moved          bool // false: it was there
}

// moves moves an actor of the service moves while a client calls it all the time, until it answers
// from there.
func (l *plasmaLive) moves(ctx context.Context, key, to string) (m seenMove, err error) {
	ask := func() (string, time.Duration, error) {
		began := time.Now()
		answer, err := l.call(ctx, "moves", "Blob", key, "where", "")
		return string(answer), time.Since(began), err
	}
	var usual Series
	for range 5 {
		at, took, err := ask()
		if err != nil {
			return m, err
		}
		if at == to {
			return m, nil
		}
		usual = append(usual, float64(took))
	}
	m.usual, m.moved, m.began = time.Duration(usual.Median()), true, time.Now()
	failed := make(chan error, 1)
	go func() { failed <- l.orders(ctx, key, to) }()
	for at := ""; at != to; {
		var took time.Duration
		if at, took, err = ask(); err != nil {
			return m, errors.Join(err, <-failed)
		}
		m.longest = max(m.longest, took)
		if time.Since(m.began) > time.Minute {
			return m, fmt.Errorf("%s is still on %s", key, at)
		}
	}
	m.ended = time.Now()
	return m, <-failed
}

// orders has an actor moved. The manager may not know yet that the last move has ended.
func (l *plasmaLive) orders(ctx context.Context, key, to string) error {
	for {
		_, err := l.Move(ctx, &api.UserMoveRequest{Service: "moves", Actor: &api.Actor{Type: "Blob", Key: key}, To: to})
		if err == nil {
			return nil
		}
		if err = errgrpc.ToNative(err); !errdefs.IsAlreadyExists(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// stoodStill is the metric of for how many seconds actors have stood still in all moves so far.
const stoodStill = "peregrine_plasma_move_pause_seconds_sum"

// metrics adds up a metric of all nodes.
func (l *plasmaLive) metrics(name string) (sum float64, err error) {
	for _, n := range l.Nodes {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			return n.NS.Dial(network, address, time.Second)
		}}}
		resp, err := client.Get("http://" + plasmaMetrics + "/metrics")
		if err != nil {
			return 0, err
		}
		part, err := metric(resp.Body, name)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			return 0, err
		}
		sum += part
	}
	return sum, nil
}

// metric finds a metric without labels in Prometheus's text.
func metric(r io.Reader, name string) (float64, error) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("there is no metric %s: %w", name, errdefs.ErrNotFound)
}

// movesPerSecond is how many moves there are while others are measured.
const movesPerSecond = 5

// others measures calls between actors of two servers while others move between these, and while
// none do.
func (b *plasmaBench) others(ctx context.Context, l *plasmaLive) error {
	b.Progress("measuring others' calls", 0, 0)
	at, err := l.where(ctx, "moves", "Probe", "o", 2, 1)
	if err != nil {
		return err
	}
	rounds, d := 10, time.Second
	if b.Quick {
		rounds, d = 4, 500*time.Millisecond
	}
	var ratios, calm, moving Series
	for round := range rounds {
		part := map[bool]Series{}
		for _, moves := range []bool{round%2 == 0, round%2 != 0} {
			done := make(chan error, 1)
			stop, cancel := context.WithCancel(ctx)
			go func() { done <- l.keepMoving(stop, moves) }()
			calls, err := l.times(ctx, "moves", at["moves-1"][0], "Probe "+at["moves-2"][0], "echo", 1<<16, d, 2000)
			cancel()
			if err = errors.Join(err, <-done); err != nil {
				return err
			}
			for _, c := range calls {
				part[moves] = append(part[moves], float64(c.took.Nanoseconds())/1e3)
			}
		}
		calm, moving = append(calm, part[false].quantile(0.99)), append(moving, part[true].quantile(0.99))
		ratios = append(ratios, part[true].quantile(0.99)/part[false].quantile(0.99))
	}
	b.against("others-p99-while-moving", OverMean, ratios, 1.05, fmt.Sprintf(
		"p99 of 2,000 calls a second between two containers while another actor of 1 KiB moves between these %d times a second, over that without moves just before or after: %s and %s us",
		movesPerSecond, Digits(moving.Median()), Digits(calm.Median())))
	return nil
}

// keepMoving moves an actor to and fro until ctx ends, or does nothing for so long.
func (l *plasmaLive) keepMoving(ctx context.Context, moves bool) error {
	tick := time.NewTicker(time.Second / movesPerSecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		if moves {
			if err := l.orders(ctx, "b-1KiB", fmt.Sprintf("moves-%d", i%2+1)); err != nil && ctx.Err() == nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
