package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/peregrine-dev/peregrine/netplugin/attach"
	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/endpoint"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	"github.com/peregrine-dev/peregrine/netplugin/priority"
	"github.com/peregrine-dev/peregrine/netplugin/protocol"
)

// opened is an agent in a namespace of its own that answers calls, until stop.
func opened(t *testing.T, ns *netnstest.NS, root string) (a *Agent, stop func()) {
	t.Helper()
	var err error
	var listener net.Listener
	ns.Do(func() {
		if a, err = Open(t.Context(), Options{Config: config.Default(), Root: root, State: filepath.Join(root, "state")}); err == nil {
			listener, err = net.Listen("unix", filepath.Join(root, protocol.Socket))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, listener) }()
	return a, func() {
		cancel()
		if err := errors.Join(<-served, a.Close()); err != nil {
			t.Error(err)
		}
	}
}

// rooted is an agent's directory with the record of a container, c, whose addresses nobody
// gave.
func rooted(t *testing.T) (root string, r endpoint.Record) {
	t.Helper()
	root, err := os.MkdirTemp("", "a-") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	r = *attachment("c", "eth0")
	r.Link, r.MAC = attach.LinkName("c", "eth0"), endpoint.MAC{2, 0, 0, 0, 0, 1}
	r.Config, err = json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "n", "type": "falcon",
		"ipam": map[string]any{"type": "host-local", "dataDir": filepath.Join(root, "ipam"), "subnet": "10.1.0.0/24"},
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := endpoint.Open(filepath.Join(root, "endpoints"))
	if err == nil {
		err = s.Put(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return root, r
}

// The commands as PLASMA and falcond have them: over the socket, with a restart of the agent,
// until the container goes.
func TestReserveByTheSocket(t *testing.T) {
	root, record := rooted(t)
	ns := netnstest.New(t)
	ctx := t.Context()
	wish := Reservation{ContainerID: "c", Class: priority.High, Owner: "plasma"}
	if _, err := Reserve(ctx, root, wish, 0); err == nil {
		t.Error("reserved without an agent")
	}
	a, stop := opened(t, ns, root)
	var inForce []priority.Policy
	a.reservations.changed = func() { inForce = append(inForce, a.policyOf(&record)) }

	began := time.Now()
	made, err := Reserve(ctx, root, wish, 1500*time.Millisecond+time.Hour)
	if err != nil || made.Expires.Before(began.Add(time.Hour+2*time.Second)) || made.Expires.After(time.Now().Add(time.Hour+2*time.Second)) {
		t.Errorf("%+v, %v", made, err)
	}
	other := Reservation{ContainerID: "c", IfName: "eth0", Class: priority.Low, Owner: "operator"}
	if got, err := Reserve(ctx, root, other, 0); err != nil || got != other {
		t.Errorf("%+v, %v", got, err)
	}
	if want := []priority.Policy{{Default: priority.High, Fixed: true}, {Default: priority.Low, Fixed: true}}; !slices.EqualFunc(inForce, want, priority.Policy.Equal) {
		t.Errorf("%+v", inForce)
	}
	for name, c := range map[string]struct {
		r     Reservation
		ttl   time.Duration
		class func(error) bool
		says  string
	}{
		"of nobody":      {r: Reservation{ContainerID: "d", Owner: "o"}, class: errdefs.IsNotFound, says: "no container d is attached here"},
		"no interface":   {r: Reservation{ContainerID: "c", IfName: "eth7", Owner: "o"}, class: errdefs.IsNotFound, says: "by the interface eth7"},
		"no owner":       {r: Reservation{ContainerID: "c"}, class: errdefs.IsInvalidArgument, says: "owner"},
		"no container":   {r: Reservation{Owner: "o"}, class: errdefs.IsInvalidArgument, says: "containerID"},
		"no class":       {r: Reservation{ContainerID: "c", Owner: "o", Class: 9}, class: errdefs.IsInvalidArgument, says: "class 9"},
		"time gone by":   {r: wish, ttl: -time.Second, class: errdefs.IsInvalidArgument, says: "-1s"},
		"beyond measure": {r: wish, ttl: 1 << 62, class: errdefs.IsInvalidArgument, says: "4294967295 s"},
	} {
		if got, err := Reserve(ctx, root, c.r, c.ttl); err == nil || !c.class(err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	stop()

	a, stop = opened(t, ns, root)
	defer func() { stop() }()
	list, err := Reservations(ctx, root)
	if err != nil || len(list) != 2 || list[0].Owner != "plasma" || !list[0].Expires.Equal(made.Expires) || list[1] != other {
		t.Errorf("after a restart: %+v, %v", list, err)
	}
	if got := a.policyOf(a.record(keyOf(&record))); !got.Equal(priority.Policy{Default: priority.Low, Fixed: true}) {
		t.Errorf("after a restart: %+v", got)
	}
	if ended, err := Release(ctx, root, "c", "operator"); err != nil || len(ended) != 1 || ended[0] != other {
		t.Errorf("%+v, %v", ended, err)
	}
	if ended, err := Release(ctx, root, "c", "operator"); err != nil || len(ended) != 0 {
		t.Errorf("a second time: %+v, %v", ended, err)
	}
	if _, err := Release(ctx, root, "c", ""); !errdefs.IsInvalidArgument(err) {
		t.Errorf("of nobody: %v", err)
	}

	del := protocol.Encode([]string{"CNI_COMMAND=DEL", "CNI_CONTAINERID=c", "CNI_IFNAME=eth0", "CNI_PATH=/none"}, record.Config)
	if out, ok := a.Handle(ctx, del, nil); !ok {
		t.Fatalf("DEL: %s", out)
	}
	if list, err := Reservations(ctx, root); err != nil || list == nil || len(list) != 0 {
		t.Errorf("after DEL: %+v, %v", list, err)
	}
}

// A file of reservations that can't be read is no reason not to run.
func TestDamagedReservations(t *testing.T) {
	root, record := rooted(t)
	if err := os.WriteFile(filepath.Join(root, reservationsFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, stop := opened(t, netnstest.New(t), root)
	defer stop()
	if got := a.policyOf(&record); !got.Equal(record.Priority) {
		t.Errorf("%+v", got)
	}
	if _, err := Reserve(t.Context(), root, Reservation{ContainerID: "c", Owner: "o"}, 0); err != nil {
		t.Error(err)
	}
}

func TestReadReserve(t *testing.T) {
	for text, code := range map[string]uint{
		`{"containerID": "c", "class": "high", "owner": "o"}`:                                 0,
		`{"containerID": "c", "ifname": "eth0", "class": "low", "owner": "a b/ä", "ttl": 60}`: 0,
		`{"containerID": "c", "class": "high", "owner": "` + strings.Repeat("o", 129) + `"}`:  types.ErrInvalidNetworkConfig,
		`{"containerID": "c", "class": "high", "owner": "a\nb"}`:                              types.ErrInvalidNetworkConfig,
		`{"containerID": "../c", "class": "high", "owner": "o"}`:                              types.ErrInvalidNetworkConfig,
		`{"containerID": "c", "ifname": "sixteen-letters-", "class": "high", "owner": "o"}`:   types.ErrInvalidNetworkConfig,
		`{"containerID": "c", "owner": "o"}`:                                                  types.ErrInvalidNetworkConfig,
		`{"containerID": "c", "class": null, "owner": "o"}`:                                   types.ErrInvalidNetworkConfig,
		`{"containerID": "c", "class": "urgent", "owner": "o"}`:                               types.ErrDecodingFailure,
		`{"containerID": "c", "class": "high", "owner": "o", "ttl": -1}`:                      types.ErrDecodingFailure,
		`{"containerID": "c", "class": "high", "owner": "o", "ttl": 4294967296}`:              types.ErrDecodingFailure,
		`{"containerID": "c", "class": "high", "owner": "o", "weight": 1}`:                    types.ErrDecodingFailure,
		`{"containerID": "c", "class": "high", "owner": "o"} {}`:                              types.ErrDecodingFailure,
		``: types.ErrDecodingFailure,
	} {
		r, err := NewRequest(protocol.Encode([]string{"CNI_COMMAND=RESERVE"}, []byte(text)), nil)
		var coded *types.Error
		if code == 0 && (err != nil || r.reservation.ContainerID != "c") || code != 0 && (!errors.As(err, &coded) || coded.Code != code) {
			t.Errorf("%.60s: %+v, %v, want code %d", text, r, err, code)
		}
	}
	if r, err := NewRequest(protocol.Encode([]string{"CNI_COMMAND=RELEASE"}, []byte(`{"containerID": "c", "owner": "o", "class": "low"}`)), nil); err == nil {
		t.Errorf("%+v", r)
	}
}

// What a container asks for is the default of its class, for ADD only.
func TestRequestPriority(t *testing.T) {
	const (
		rules = `"priority": {"default": "low", "rules": [{"port": 53, "class": "low"}]}`
		label = `"args": {"cni": {"labels": [{"key": "peregrine.dev/priority", "value": "urgent"}]}}`
	)
	for _, c := range []struct {
		name, command, conf, args string
		want                      priority.Class
		ipamArgs                  string
		bad                       bool
	}{
		{name: "configuration's", command: "ADD", conf: rules, want: priority.Low},
		{name: "container's", command: "ADD", conf: rules, args: "PEREGRINE_PRIORITY=high", want: priority.High},
		{name: "IPAM's arguments", command: "ADD", conf: rules, args: "IgnoreUnknown=1;PEREGRINE_PRIORITY=normal;IP=10.1.0.7", ipamArgs: "IgnoreUnknown=1;IP=10.1.0.7"},
		{name: "others' arguments", command: "ADD", conf: rules, args: ";A=B;;", want: priority.Low, ipamArgs: ";A=B;;"},
		{name: "empty", command: "ADD", conf: rules, args: "PEREGRINE_PRIORITY=", want: priority.Low},
		{name: "bad", command: "ADD", conf: rules, args: "PEREGRINE_PRIORITY=urgent", bad: true},
		{name: "bad label", command: "ADD", conf: label, bad: true},
		{name: "bad label of DEL", command: "DEL", conf: label},
		{name: "bad argument of DEL", command: "DEL", conf: rules, args: "PEREGRINE_PRIORITY=urgent", want: priority.Low},
		{name: "bad argument of CHECK", command: "CHECK", conf: rules, args: "PEREGRINE_PRIORITY=urgent", want: priority.Low},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := NewRequest(protocol.Encode([]string{
				"CNI_COMMAND=" + c.command, "CNI_CONTAINERID=c", "CNI_IFNAME=eth0", "CNI_NETNS=/ns", "CNI_PATH=/a", "CNI_ARGS=" + c.args,
			}, []byte(`{"cniVersion": "1.0.0", "name": "n", "type": "falcon", `+c.conf+`}`)), nil)
			if c.bad {
				var coded *types.Error
				if !errors.As(err, &coded) || coded.Code != types.ErrInvalidNetworkConfig || !strings.Contains(err.Error(), "urgent") {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.Conf.Priority.Default != c.want || r.Args != c.ipamArgs || strings.Contains(c.conf, "rules") != (len(r.Conf.Priority.Rules) == 1) {
				t.Errorf("%+v, CNI_ARGS %q", r.Conf.Priority, r.Args)
			}
		})
	}
}

// A request is refused with a code, or has all that its command needs.
func FuzzNewRequest(f *testing.F) {
	reserve := `{"containerID": "c", "ifname": "eth0", "class": "high", "owner": "o", "ttl": 60}`
	for command, config := range map[string]string{
		protocol.Reserve: reserve, protocol.Release: `{"containerID": "c", "owner": "o"}`, protocol.Reservations: "", protocol.Report: "",
		"ADD": `{"cniVersion": "1.1.0", "name": "n", "priority": {"default": "low", "rules": [{"port": 1, "class": "high"}]}, "args": {"cni": {"labels": []}}}`,
	} {
		f.Add(command, "IgnoreUnknown=1;PEREGRINE_PRIORITY=low", []byte(config))
	}
	f.Fuzz(func(t *testing.T, command, args string, config []byte) {
		request := protocol.Encode([]string{
			"CNI_COMMAND=" + command, "CNI_CONTAINERID=c", "CNI_IFNAME=eth0", "CNI_NETNS=/ns", "CNI_PATH=/a", "CNI_ARGS=" + args,
		}, config)
		r, err := NewRequest(request, nil)
		if err != nil {
			var coded *types.Error
			if !errors.As(err, &coded) {
				t.Errorf("%v has no code", err)
			}
			return
		}
		switch r.Command {
		case protocol.Reserve, protocol.Release:
			if err := r.reservation.validate(); err != nil || r.ttl < 0 {
				t.Errorf("%+v, %s, %v", r.reservation, r.ttl, err)
			}
			text, err := json.Marshal(r.reservation)
			var again Reservation
			if err != nil || json.Unmarshal(text, &again) != nil || again != r.reservation {
				t.Errorf("%+v, as %s, %v", r.reservation, text, err)
			}
		case protocol.Report, protocol.Reservations:
		default:
			if err := r.Conf.Priority.Validate(); err != nil || strings.Contains(";"+r.Args, ";"+priorityArg+"=") {
				t.Errorf("%+v, %q, %v", r.Conf.Priority, r.Args, err)
			}
		}
	})
}

// BenchmarkReserve is from the call to the answer, over the socket, on a node with 1,000
// containers, without what brings it in force.
func BenchmarkReserve(b *testing.B) {
	if err := log.SetLevel("warn"); err != nil {
		b.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "a-")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var records []*endpoint.Record
	for i := range 1000 {
		records = append(records, attachment(fmt.Sprint("c", i), "eth0"))
	}
	a := classesOf(dir, records...)
	listener, err := net.Listen("unix", filepath.Join(dir, protocol.Socket))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, listener) }()
	for i := 0; b.Loop(); i++ {
		if _, err := Reserve(ctx, dir, Reservation{ContainerID: fmt.Sprint("c", i%1000), Class: priority.Class(i / 1000 % 3), Owner: "o"}, 0); err != nil {
			b.Fatal(err)
		}
	}
	cancel()
	if err := <-served; err != nil {
		b.Error(err)
	}
}
