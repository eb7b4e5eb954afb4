package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/netplugin/agent"
	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/endpoint"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	"github.com/peregrine-dev/peregrine/netplugin/priority"
	"github.com/peregrine-dev/peregrine/netplugin/protocol"
)

func TestReserve(t *testing.T) {
	root, err := os.MkdirTemp("", "f-") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	falcond := func(args ...string) error {
		return app().RunContext(t.Context(), append([]string{"falcond", "--root", root}, args...))
	}
	if err := falcond("reserve", "--class", "high", "c"); err == nil || !strings.Contains(err.Error(), "start falcond") {
		t.Errorf("without an agent: %v", err)
	}
	serveRecord(t, root, endpoint.Record{ContainerID: "c", IfName: "eth0", Complete: true})

	for _, c := range []struct{ args, says string }{
		{"reserve c", `"class" not set`},
		{"reserve --class high", "want one container"},
		{"reserve --class high c d", "want one container"},
		{"reserve --class urgent c", "use high, normal or low"},
		{"reserve --class high --ttl 0s c", "has no time in it"},
		{"reserve --class high --ttl -1s c", "has no time in it"},
		{"reserve --class high d", "no container d is attached"},
		{"release c", "has reserved nothing"},
		{"reserve --class low --ttl 60s c", ""},
		{"reserve --class high c", ""},
		{"reservations --json", ""},
		{"release --owner plasma c", "plasma has reserved nothing"},
		{"release c", ""},
		{"release c", "has reserved nothing"},
		{"reserve --class low --ttl 60s c", ""},
	} {
		err := falcond(strings.Fields(c.args)...)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.args, err, c.says)
		}
	}
	list, err := agent.Reservations(t.Context(), root)
	if err != nil || len(list) != 1 || list[0].Owner != "operator" || list[0].Class != priority.Low || time.Until(list[0].Expires) > time.Minute {
		t.Errorf("%+v, %v", list, err)
	}
}

// serveRecord runs an agent that knows one attachment, as long as the test does.
func serveRecord(t *testing.T, root string, r endpoint.Record) {
	t.Helper()
	s, err := endpoint.Open(filepath.Join(root, "endpoints"))
	if err == nil {
		err = s.Put(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	var a *agent.Agent
	var l net.Listener
	netnstest.New(t).Do(func() {
		if a, err = agent.Open(t.Context(), agent.Options{Config: config.Default(), Root: root, State: filepath.Join(root, "state")}); err == nil {
			l, err = net.Listen("unix", filepath.Join(root, protocol.Socket))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-served, a.Close()); err != nil {
			t.Error(err)
		}
	})
}

func TestPrintReservations(t *testing.T) {
	now := time.Now()
	var text strings.Builder
	printReservations(&text, []agent.Reservation{
		{ContainerID: "c", Class: priority.High, Owner: "plasma", Expires: now.Add(90 * time.Second)},
		{ContainerID: "c", IfName: "eth0", Class: priority.Low, Owner: "operator"},
	}, now)
	const want = "CONTAINER\tINTERFACE\tCLASS\tOWNER\tENDS IN\nc\tall\thigh\tplasma\t1m30s\nc\teth0\tlow\toperator\tnever\n"
	if text.String() != want {
		t.Errorf("%q", text.String())
	}
}
