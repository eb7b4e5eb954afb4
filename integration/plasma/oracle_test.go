package plasma

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// How much load an oracle makes: of each kind so many actors, each called from all clients.
const (
	ledgers   = 6
	senders   = 3
	registers = 4
	tallies   = 2
	idle      = 40 // ledgers with one entry, that only move
)

// An oracle has clients call actors all the time, writes down what was answered, and tells at the
// end whether it can have been so: of actors that are stored each turn, that no message is lost,
// comes twice or overtakes another of its sender, and that each is one thing in one place; of
// those that are not stored, the latter.
type oracle struct {
	t       *testing.T
	clients []*client
	began   time.Time
	stop    context.CancelFunc
	load    sync.WaitGroup
	done    atomic.Int64 // calls that were answered
	doubted atomic.Int64 // calls that were not

	mu      sync.Mutex
	sent    map[[2]string]*sent // by ledger and sender
	history map[string][]porcupine.Operation
	lives   map[string]string // what tallies have answered, and where
}

// sent is the last number of a sender that was answered, and the last one there may be.
type sent struct{ answered, tried int64 }

// patience of a call, which outlasts all that is broken for a time. brief is for some, so that
// there are calls that were given up.
const (
	patience = 90 * time.Second
	brief    = 700 * time.Millisecond
)

// watchOver begins the load.
func watchOver(t *testing.T, clients ...*client) *oracle {
	ctx, stop := context.WithCancel(context.Background())
	o := &oracle{
		t: t, clients: clients, began: time.Now(), stop: stop,
		sent: map[[2]string]*sent{}, history: map[string][]porcupine.Operation{}, lives: map[string]string{},
	}
	t.Cleanup(func() { stop(); o.endClients(); o.load.Wait() })
	for i, c := range clients {
		for j := range ledgers {
			o.load.Go(func() { o.write(ctx, c, fmt.Sprint("l", j), fmt.Sprintf("c%d", i)) })
		}
		for j := range registers {
			o.load.Go(func() { o.ask(ctx, c, i, fmt.Sprint("r", j)) })
		}
		for j := range tallies {
			o.load.Go(func() { o.count(ctx, c, fmt.Sprint("t", j)) })
		}
	}
	for j := range idle {
		if _, err := clients[j%len(clients)].call("Ledger", fmt.Sprint("i", j), "put", "init 1", patience); err != nil {
			t.Fatal(err)
		}
		o.note(fmt.Sprint("i", j), "init", 1, 1)
	}
	for j := range senders {
		o.load.Go(func() { o.send(ctx, clients[j%len(clients)], fmt.Sprint("s", j), fmt.Sprint("l", j%ledgers)) })
	}
	return o
}

// endClients has calls that can't end do so; after a check there are none.
func (o *oracle) endClients() {
	for _, c := range o.clients {
		c.end()
	}
}

// actors are all that are called, as TYPE and KEY.
func (o *oracle) actors() (all [][2]string) {
	for _, k := range []struct {
		kind, prefix string
		n            int
	}{{"Ledger", "l", ledgers}, {"Ledger", "i", idle}, {"Sender", "s", senders}, {"Register", "r", registers}, {"Tally", "t", tallies}} {
		for i := range k.n {
			all = append(all, [2]string{k.kind, fmt.Sprint(k.prefix, i)})
		}
	}
	return all
}

// pace is between two calls of one caller.
func pace(ctx context.Context) bool {
	return sleep(ctx, time.Duration(5+rand.IntN(25))*time.Millisecond)
}

// write has a ledger write numbers down. After a call that was not answered it goes on by another
// name: whether that one had its effect is not known.
func (o *oracle) write(ctx context.Context, c *client, ledger, name string) {
	for life := 0; ctx.Err() == nil; life++ {
		as := fmt.Sprintf("%s.%d", name, life)
		for n := int64(1); pace(ctx); n++ {
			o.note(ledger, as, n-1, n)
			got, err := c.call("Ledger", ledger, "put", fmt.Sprint(as, " ", n), o.patience())
			if err != nil {
				o.doubt(err)
				break
			}
			o.done.Add(1)
			o.note(ledger, as, n, n)
			if got != fmt.Sprint(n) {
				o.t.Errorf("%s answers %q to %d of %s", ledger, got, n, as)
			}
		}
	}
}

func (o *oracle) patience() time.Duration {
	if rand.IntN(50) == 0 {
		return brief
	}
	return patience
}

func (o *oracle) note(ledger, sender string, answered, tried int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sent[[2]string{ledger, sender}] = &sent{answered, tried}
}

// doubt counts a call without an answer. That of the application would be a mistake of it.
func (o *oracle) doubt(err error) {
	var own errOwn
	if errors.As(err, &own) {
		o.t.Errorf("the application: %v", own)
	}
	if o.doubted.Add(1) <= 10 {
		o.t.Logf("not answered: %v", err)
	}
}

// send has an actor send messages to a ledger; it says how many it has sent in all.
func (o *oracle) send(ctx context.Context, c *client, sender, ledger string) {
	last := int64(0)
	for pace(ctx) {
		n := int64(1 + rand.IntN(3))
		// A second has another effect: it is not given up.
		got, err := c.call("Sender", sender, "send", fmt.Sprint(ledger, " ", n), patience)
		if err != nil {
			o.doubt(err)
			o.note(ledger, sender, last, math.MaxInt64)
			return
		}
		o.done.Add(1)
		var all int64
		var full string
		_, _ = fmt.Sscan(got, &all, &full)
		// When the ledger is away for long no more can be sent.
		if all != last+n && (full == "" || all < last || all > last+n) {
			o.t.Errorf("%s has sent %q messages, %d are asked for", sender, got, last+n)
		}
		last = all
		o.note(ledger, sender, last, last)
	}
}

// operation is a call of a register.
type operation struct {
	function string
	value    int64
}

// ask reads, sets and raises a register.
func (o *oracle) ask(ctx context.Context, c *client, who int, key string) {
	for i := int64(0); pace(ctx); i++ {
		in := operation{function: "get"}
		switch rand.IntN(4) {
		case 0:
			in = operation{"set", i*1000 + int64(who)*1_000_000_000}
		case 1:
			in = operation{function: "add"}
		}
		began := time.Since(o.began)
		got, err := c.call("Register", key, in.function, fmt.Sprint(in.value), o.patience())
		op := porcupine.Operation{ClientId: who, Input: in, Call: int64(began), Return: int64(time.Since(o.began))}
		if err != nil {
			o.doubt(err)
			if in.function == "get" {
				continue
			}
			op.Return = math.MaxInt64 // it may have its effect at any time, or never
		} else {
			var value int64
			if _, err := fmt.Sscan(got, &value); err != nil {
				o.t.Errorf("%s answers %q", key, got)
				return
			}
			o.done.Add(1)
			op.Output, op.Metadata = value, got
		}
		o.mu.Lock()
		o.history[key] = append(o.history[key], op)
		o.mu.Unlock()
	}
}

// oneRegister is what a register is, if there is one of it. Output nil is a call without an answer.
var oneRegister = porcupine.Model{
	Init: func() any { return int64(0) },
	Step: func(state, input, output any) (bool, any) {
		value, in := state.(int64), input.(operation)
		switch in.function {
		case "set":
			value = in.value
		case "add":
			value++
		}
		return output == nil || output.(int64) == value, value
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%v: %v", input, output) },
}

// count asks actors that are not stored: no answer may come twice.
func (o *oracle) count(ctx context.Context, c *client, key string) {
	for pace(ctx) {
		got, err := c.call("Tally", key, "count", "", brief)
		fields := strings.Fields(got)
		if err != nil || len(fields) != 3 {
			o.doubt(err)
			continue
		}
		o.done.Add(1)
		o.mu.Lock()
		where, twice := o.lives[fields[0]+" "+fields[1]]
		o.lives[fields[0]+" "+fields[1]] = fields[2]
		o.mu.Unlock()
		if twice {
			o.t.Errorf("%s counts to %s both on %s and on %s: two have it", key, fields[1], where, fields[2])
		}
	}
}

// check ends the load and tells whether all was as it may be.
func (o *oracle) check() {
	o.t.Helper()
	o.stop()
	o.load.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	for j := range ledgers {
		for i, c := range o.clients {
			o.checkLedger(c, fmt.Sprint("l", j), i == 0)
		}
	}
	for j := range idle {
		o.checkLedger(o.clients[j%len(o.clients)], fmt.Sprint("i", j), false)
	}
	longest := 0
	for key, history := range o.history {
		longest = max(longest, len(history))
		switch porcupine.CheckOperationsTimeout(oneRegister, history, time.Minute) {
		case porcupine.Illegal:
			o.t.Errorf("%s: what its %d calls were answered is not what one register answers", key, len(history))
		case porcupine.Unknown:
			o.t.Errorf("%s: no order of its %d calls was found within a minute", key, len(history))
		}
	}
	o.t.Logf("%d calls were answered in %s, %d were not; histories of up to %d calls checked",
		o.done.Load(), time.Since(o.began).Round(time.Second), o.doubted.Load(), longest)
}

// checkLedger compares what a ledger has with what it was sent. What actors have sent may still
// be on its way.
func (o *oracle) checkLedger(c *client, ledger string, wait bool) {
	var err error
	for end := time.Now().Add(patience); ; {
		var all string
		all, err = c.call("Ledger", ledger, "read", "", patience)
		if err != nil {
			break
		}
		var has struct {
			Last, Count map[string]int64
			Wrong       []string
		}
		if err = json.Unmarshal([]byte(all), &has); err != nil {
			break
		}
		if len(has.Wrong) > 0 {
			err = fmt.Errorf("lost, twice or in another order: %s", has.Wrong)
			break
		}
		late := false
		for who, n := range o.sent {
			if who[0] != ledger {
				continue
			}
			switch last := has.Last[who[1]]; {
			case last > n.tried:
				err = errors.Join(err, fmt.Errorf("it has %d messages of %s, which has sent %d", last, who[1], n.tried))
			case last != has.Count[who[1]]:
				err = errors.Join(err, fmt.Errorf("it has counted %d messages of %s up to %d", has.Count[who[1]], who[1], last))
			case last < n.answered && strings.HasPrefix(who[1], "s") && wait && time.Now().Before(end):
				late = true
			case last < n.answered:
				err = errors.Join(err, fmt.Errorf("it has %d messages of %s, which was answered %d", last, who[1], n.answered))
			}
		}
		if err != nil || !late {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		o.t.Errorf("ledger %s: %v", ledger, err)
	}
}

// TestOracleOfRegisters checks the check.
func TestOracleOfRegisters(t *testing.T) {
	op := func(function string, value int64, output any, call, back int64) porcupine.Operation {
		return porcupine.Operation{Input: operation{function, value}, Output: output, Call: call, Return: back}
	}
	const never = math.MaxInt64
	for _, c := range []struct {
		name    string
		history []porcupine.Operation
		good    bool
	}{
		{"one after the other", []porcupine.Operation{op("add", 0, int64(1), 0, 1), op("add", 0, int64(2), 2, 3), op("get", 0, int64(2), 4, 5)}, true},
		{"the same number twice", []porcupine.Operation{op("add", 0, int64(1), 0, 1), op("add", 0, int64(1), 0, 1)}, false},
		{"an old value", []porcupine.Operation{op("set", 5, int64(5), 0, 1), op("get", 0, int64(0), 2, 3)}, false},
		{"a call in doubt that had its effect", []porcupine.Operation{op("set", 5, nil, 0, never), op("get", 0, int64(5), 2, 3)}, true},
		{"one that had none", []porcupine.Operation{op("set", 5, nil, 0, never), op("get", 0, int64(0), 2, 3)}, true},
		{"one that had it twice", []porcupine.Operation{op("add", 0, nil, 0, never), op("get", 0, int64(2), 2, 3)}, false},
	} {
		if good := porcupine.CheckOperations(oneRegister, c.history); good != c.good {
			t.Errorf("%s: %v", c.name, good)
		}
	}
}
