package firewall

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// foreign is a transaction of somebody else.
func foreign(t *testing.T, f *Firewall, change func(*nftables.Conn)) {
	t.Helper()
	conn, err := nftables.New(nftables.WithNetNSFd(int(f.kernel.ns.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	change(conn)
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
}

func inForce(t *testing.T, f *Firewall, want bool, when string) {
	t.Helper()
	if is, err := f.InForce(); err != nil || is != want {
		t.Errorf("%s: in force %v, %v; want %v", when, is, err, want)
	}
}

func ours(family nftables.TableFamily) *nftables.Table {
	return &nftables.Table{Family: family, Name: tableName}
}

// others changes another table.
func others(conn *nftables.Conn) {
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "other"})
	chain := conn.AddChain(&nftables.Chain{Name: "falcon", Table: table})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}})
}

func TestInForce(t *testing.T) {
	f, s := open(t), many(20)
	inForce(t, f, false, "before Replace")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(f.Replace(s))
	inForce(t, f, true, "after Replace")
	must(f.Allow(numbered(30)))
	inForce(t, f, true, "after Allow")
	must(f.Allow(numbered(30)))
	must(f.Deny(numbered(3)))
	must(f.Deny(numbered(99)))
	inForce(t, f, true, "after Deny")
	for range 3 {
		foreign(t, f, others)
		inForce(t, f, true, "after another table was changed")
	}
	before := f.placed.generation
	if now, err := f.kernel.generation(); err != nil || now != before {
		t.Errorf("compared at generation %d and remembers %d, %v: it will compare again", now, before, err)
	}
	must(f.Remove())
	inForce(t, f, false, "after Remove")
}

func TestInForceNotices(t *testing.T) {
	inet, bridge := ours(nftables.TableFamilyINet), ours(nftables.TableFamilyBridge)
	element := func(in *nftables.Table, s set, e nftables.SetElement, how func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) func(*nftables.Conn) {
		return func(conn *nftables.Conn) {
			if err := how(conn, s.in(in, 1), []nftables.SetElement{e}); err != nil {
				t.Fatal(err)
			}
		}
	}
	link := func(i int) nftables.SetElement { return endpointElements(numbered(i))[setLinks][0] }
	vteps := inetSets[3]
	vtep := nftables.SetElement{Key: netip.MustParseAddr("192.0.0.3").AsSlice()}
	stranger := nftables.SetElement{Key: netip.MustParseAddr("203.0.113.9").AsSlice()}
	for name, change := range map[string]func(*nftables.Conn){
		"all flushed":          func(conn *nftables.Conn) { conn.FlushRuleset() },
		"a table deleted":      func(conn *nftables.Conn) { conn.DelTable(bridge) },
		"a table emptied":      func(conn *nftables.Conn) { conn.DelTable(inet); conn.AddTable(inet) },
		"a table's rules gone": func(conn *nftables.Conn) { conn.FlushTable(inet) },
		"a chain's rules gone": func(conn *nftables.Conn) { conn.FlushChain(&nftables.Chain{Table: bridge, Name: "prerouting"}) },
		"a rule before ours": func(conn *nftables.Conn) {
			conn.InsertRule(&nftables.Rule{Table: inet, Chain: &nftables.Chain{Name: "forward"}, Exprs: []expr.Any(accept())})
		},
		"a link less":              element(bridge, endpointSets[0], link(3), (*nftables.Conn).SetDeleteElements),
		"a link more":              element(bridge, endpointSets[0], link(77), (*nftables.Conn).SetAddElements),
		"a set of the bridge gone": func(conn *nftables.Conn) { conn.FlushSet(endpointSets[1].in(bridge, 1)) },
		"a node less":              element(inet, vteps, vtep, (*nftables.Conn).SetDeleteElements),
		"a node more":              element(inet, vteps, stranger, (*nftables.Conn).SetAddElements),
		"one link for another": func(conn *nftables.Conn) {
			element(bridge, endpointSets[0], link(3), (*nftables.Conn).SetDeleteElements)(conn)
			element(bridge, endpointSets[0], link(77), (*nftables.Conn).SetAddElements)(conn)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, s := open(t), many(20)
			if err := f.Replace(s); err != nil {
				t.Fatal(err)
			}
			foreign(t, f, change)
			inForce(t, f, false, "changed")
			inForce(t, f, false, "still changed")
			if err := f.Replace(s); err != nil {
				t.Fatal(err)
			}
			inForce(t, f, true, "mended")
		})
	}
}

// Packets, which count, change nothing that is compared.
func TestInForceUnderTraffic(t *testing.T) {
	l := newLab(t, false, false)
	for i, a := range append(l.packetAttacks(t), l.frameAttacks()...) {
		a.from.send(t, a.frame)
		if i%5 == 0 {
			l.waitDropped(t, a.reason, a.link, 0)
		}
	}
	if err := l.a.Try("udp", l.other.Echo("udp", at(l.stranger, 0)), patience); err != nil {
		t.Error(err)
	}
	foreign(t, l.f, others)
	inForce(t, l.f, true, "after drops")
}

// Endpoints come and go for ever: neither what is read nor what is in the kernel grows.
func TestDropsAreBounded(t *testing.T) {
	f := open(t)
	if err := f.Replace(many(0)); err != nil {
		t.Fatal(err)
	}
	count := func(i int) {
		t.Helper()
		foreign(t, f, func(conn *nftables.Conn) {
			e := make(elements)
			e.key(setDrops, linkName(SpoofedMAC), linkName(numbered(i).Link))
			if err := conn.SetAddElements(drops.in(ours(nftables.TableFamilyBridge), 1), e[setDrops]); err != nil {
				t.Fatal(err)
			}
		})
	}
	stays := numbered(1 << 15)
	if err := f.Allow(stays); err != nil {
		t.Fatal(err)
	}
	count(1 << 15)
	for i := range sweepAfter + 10 {
		e := numbered(i)
		if err := f.Allow(e); err != nil {
			t.Fatal(err)
		}
		count(i)
		if err := f.Deny(e); err != nil {
			t.Fatal(err)
		}
	}
	if in, err := f.kernel.counters(); err != nil || len(in) != 11 {
		t.Errorf("%d counters are in the kernel, %v; want 11", len(in), err)
	}
	got, err := f.Drops()
	if err != nil || len(got) != 2 || got[0].Link != "" || got[1].Link != stays.Link {
		t.Errorf("read %v, %v", got, err)
	}
}

func BenchmarkInForce(b *testing.B) {
	for _, n := range []int{0, 1000} {
		for _, changed := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d/changed=%v", n, changed), func(b *testing.B) {
				f := open(b)
				if err := f.Replace(many(n)); err != nil {
					b.Fatal(err)
				}
				for b.Loop() {
					if changed {
						f.placed.generation--
					}
					if is, err := f.InForce(); err != nil || !is {
						b.Fatal(is, err)
					}
				}
			})
		}
	}
}
