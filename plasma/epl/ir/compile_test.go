package ir_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
)

func compile(t *testing.T, text string) (*ir.Program, error) {
	t.Helper()
	p, err := epl.Parse("test.epl", []byte(text), epl.Full)
	if err != nil {
		t.Fatal(err)
	}
	return ir.Compile(p)
}

// show writes a rule's alternatives as "terms|terms [behaviors]", with variables by number.
func show(r *ir.Rule) string {
	var all []string
	for _, a := range r.When {
		var terms []string
		for _, t := range a.Terms {
			text := ""
			if t.Not {
				text = "not "
			}
			if t.In != nil {
				text += fmt.Sprintf("%d in %d.%s", t.Entity, t.Other, t.In.Name)
			} else {
				text += fmt.Sprintf("%d%s%s", t.Entity, t.Compare.Op, t.Compare.Value)
			}
			terms = append(terms, text)
		}
		all = append(all, strings.Join(terms, " and ")+fmt.Sprint(a.Do))
	}
	return strings.Join(all, " or ")
}

func TestAlternatives(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{`true => pin(A);`, "[[0]]"},
		{`not true => pin(A);`, ""},
		{`server.cpu.perc > 1 or server.cpu.perc < 2 => balance({A}, cpu);`, "-1>1[[]] or -1<2[[]]"},
		{`not (server.cpu.perc > 1 or server.cpu.perc < 2) => balance({A}, cpu);`, "not -1>1 and not -1<2[[]]"},
		{`not (server.cpu.perc > 1 and server.cpu.perc < 2) => balance({A}, cpu);`, "not -1>1[[]] or not -1<2[[]]"},
		{
			`(server.cpu.perc > 1 or server.cpu.perc > 2) and (server.cpu.perc < 3 or server.cpu.perc < 4) => balance({A}, cpu);`,
			"-1>1 and -1<3[[]] or -1>1 and -1<4[[]] or -1>2 and -1<3[[]] or -1>2 and -1<4[[]]",
		},
		{
			`server.cpu.perc > 80 and client.call(Folder(fo).open).perc > 40 and File(fi) in ref(fo.files) => reserve(fo, cpu); colocate(fo, fi);`,
			"-1>80 and 0>40 and 1 in 0.files[[0] [0 1]]",
		},
		{`A(x).cpu.perc > 1 and A.cpu.perc > 2 and A.cpu.perc > 3 => pin(x);`, "0>1 and 1>2 and 2>3[[0]]"},
		{`A(x).cpu.perc > 1 => pin(B(y)); pin(x);`, "0>1[[1] [0]]"},
	} {
		p, err := compile(t, test.text)
		if err != nil {
			t.Errorf("%s: %v", test.text, err)
			continue
		}
		if got := show(p.Rules[0]); got != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.text, got, test.want)
		}
	}
}

func TestRefused(t *testing.T) {
	many := "server.cpu.perc > 1 or server.cpu.perc > 2"
	for _, test := range []struct{ text, want string }{
		{`A(x).cpu.perc > 1 or B(y).cpu.perc > 1 => pin(x);`, "not bound on each side"},
		{"(" + many + strings.Repeat(") and ("+many, 8) + ") => pin(A);", "more than 256 combinations"},
	} {
		if _, err := compile(t, test.text); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.text, err, test.want)
		}
	}
}

func TestOrderAndLimits(t *testing.T) {
	p, err := compile(t, `limits { servers 2..20; moves 5% per 10s; cooldown up 5s down 120s; period 10s; } mode shadow;
rule low priority 1: true => pin(A);
true => pin(B);
rule high priority 9: true => pin(C);`)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range p.Rules {
		names = append(names, r.Name)
	}
	if got := strings.Join(names, ","); got != "high,low,rule 2" {
		t.Errorf("the rules' order is %s", got)
	}
	l := p.Limits
	if !p.Shadow || l.MinServers != 2 || l.MaxServers != 20 || l.MovesShare != 0.05 || l.Per.Seconds() != 10 ||
		!l.CooldownSet || l.Up.Seconds() != 5 || l.Down.Seconds() != 120 || l.Period.Seconds() != 10 {
		t.Errorf("shadow %t, limits %+v", p.Shadow, l)
	}
}
