package pipeline

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

// pair is a node and a container of it, joined by a veth: fv0 and eth0.
type pair struct {
	t               *testing.T
	node, container *netnstest.NS
	file            string
	rps             *RPS
}

func newPair(t *testing.T) *pair {
	p := &pair{t: t, node: netnstest.New(t), container: netnstest.New(t), file: filepath.Join(t.TempDir(), "rps.json")}
	p.wire()
	p.restart()
	return p
}

func (p *pair) wire() {
	p.t.Helper()
	netnstest.Wire(netnstest.End{NS: p.node, Link: "fv0"}, netnstest.End{NS: p.container, Link: "eth0"}, 1450)
}

func (p *pair) restart() {
	p.t.Helper()
	rps, err := OpenRPS(p.file)
	if err != nil {
		p.t.Fatal(err)
	}
	p.rps = rps
}

// sets is Set without an error; it returns the queues that were left alone.
func (p *pair) sets(ns *netnstest.NS, link string, cpus ...int) []Foreign {
	p.t.Helper()
	foreign, err := p.rps.Set(ns.File(), link, cpus)
	if err != nil {
		p.t.Fatal(err)
	}
	return foreign
}

func (p *pair) restores(ns *netnstest.NS) []Foreign {
	p.t.Helper()
	foreign, err := p.rps.Restore(ns.File())
	if err != nil {
		p.t.Fatal(err)
	}
	return foreign
}

// has wants the masks of a link's queues to be these CPUs.
func (p *pair) has(ns *netnstest.NS, link string, cpus ...int) {
	p.t.Helper()
	err := inSysfs(ns.File(), func(s *sysfs) error {
		l, err := s.link(link)
		if err != nil {
			return err
		}
		for _, queue := range l.queues {
			if got, err := s.mask(l, queue); !slices.Equal(got, cpus) || err != nil {
				p.t.Errorf("%s %s: CPUs %v, %v; want %v", link, queue, got, err, cpus)
			}
		}
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// meddles sets the mask of a link's first queue as somebody else would.
func (p *pair) meddles(ns *netnstest.NS, link string, cpus ...int) {
	p.t.Helper()
	err := inSysfs(ns.File(), func(s *sysfs) error {
		l, err := s.link(link)
		if err != nil {
			return err
		}
		return s.setMask(l, l.queues[0], cpus)
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// owns wants so many queues to be remembered, by the file too.
func (p *pair) owns(n int) {
	p.t.Helper()
	r, err := readRecord(p.file)
	if len(r.Queues) != n || len(p.rps.now.Queues) != n || err != nil {
		p.t.Errorf("remembered: %v, in the file %v, %v; want %d", p.rps.now.Queues, r.Queues, err, n)
	}
}

// has2 is has of two queues.
func (p *pair) has2(link string, zero, one []int) {
	p.t.Helper()
	err := inSysfs(p.node.File(), func(s *sysfs) error {
		l, err := s.link(link)
		if err != nil {
			return err
		}
		if !slices.Equal(l.queues, []string{"rx-0", "rx-1"}) {
			p.t.Error(l.queues)
		}
		a, err := s.mask(l, "rx-0")
		b, err2 := s.mask(l, "rx-1")
		if !slices.Equal(a, zero) || !slices.Equal(b, one) {
			p.t.Errorf("CPUs %v and %v, want %v and %v", a, b, zero, one)
		}
		return errors.Join(err, err2)
	})
	if err != nil {
		p.t.Error(err)
	}
}
