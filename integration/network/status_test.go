package network

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/peregrine-dev/peregrine/integration/network/node"
	"github.com/peregrine-dev/peregrine/netplugin/agent"
)

// scrape reads the agent's metrics inside the node.
func scrape(t *testing.T, n *node.Node) string {
	t.Helper()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return n.NS.Dial("tcp", n.Config.Metrics.Address, patience)
	}}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get("http://" + n.Config.Metrics.Address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", response.Status, text, err)
	}
	return string(text)
}

func health(t *testing.T, n *node.Node) (healthpb.HealthCheckResponse_ServingStatus, error) {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+filepath.Join(n.Root(), "falcond.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answer, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	return answer.GetStatus(), err
}

// What operators and monitoring see.
func TestStatus(t *testing.T) {
	n := node.New(t, 1)
	n.Outside()
	n.Config.Metrics.Address = "127.0.0.1:9402"
	n.Config.Networks = append(n.Config.Networks, node.NewNetwork("green", 2, 1))
	n.Config.Peers.File = filepath.Join(n.Dir, "peers.toml")
	peers := `
[[node]]
name = "node2"
address = "192.0.2.2"
[[node.network]]
vni = 1
subnets = ["10.88.2.0/24", "fd00:88:0:2::/64"]
`
	if err := os.WriteFile(n.Config.Peers.File, []byte(peers), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Start()
	list := n.List("1.1.0", node.Network("falcon"))
	c, d := n.Container("container-c"), n.Container("container-d")
	n.MustAdd(list, c)
	n.MustAdd(list, d)
	if err := c.NS.Try("udp", d.NS.Echo("udp", at(d, 0, "0")), patience); err != nil {
		t.Fatal(err)
	}
	if err := n.Add(t.Context(), list, c); err == nil {
		t.Error("a second ADD succeeded")
	}
	n.Eventually(func() error {
		r, err := n.Report()
		if err == nil && len(r.Peers) != 1 {
			err = fmt.Errorf("%d peers", len(r.Peers))
		}
		return err
	})

	for command, says := range map[string][]string{
		"status":    {"node1", "192.0.2.1", "falcon", "green", "10.88.1.0/24", "fd00:89:0:1::/64", "ready", "fb1", "fb2"},
		"endpoints": {"container-c", "container-d", "eth0", c.Address(0), d.Address(1), c.Result.Interfaces[1].Name, c.Result.Interfaces[2].Mac},
		"peers":     {"node2", "192.0.2.2", "10.88.2.0/24", "fd00:88:0:2::/64"},
	} {
		plain, err := n.Falcond(command)
		if err != nil {
			t.Error(err)
		}
		text, err := n.Falcond(command, "--json")
		if err != nil {
			t.Error(err)
		}
		var report agent.Report
		if err := json.Unmarshal([]byte(text), &report); err != nil || report.Node != "node1" || len(report.Endpoints) != 2 || len(report.Networks) != 2 {
			t.Errorf("%s --json: %s: %v", command, text, err)
		}
		for _, want := range says {
			if !strings.Contains(plain, want) {
				t.Errorf("%s lacks %s:\n%s", command, want, plain)
			}
			if want != "ready" && !strings.Contains(text, want) {
				t.Errorf("%s --json lacks %s:\n%s", command, want, text)
			}
		}
	}
	metrics := scrape(t, n)
	for _, want := range []string{
		`peregrine_falcon_endpoints{network="falcon"} 2`, `peregrine_falcon_endpoints{network="green"} 0`,
		`peregrine_falcon_network_ready{network="falcon"} 1`, `peregrine_falcon_nodes 1`,
		`peregrine_falcon_call_seconds_count{code="0",command="ADD"} 2`, `peregrine_falcon_call_seconds_count{code="4",command="ADD"} 1`,
		`peregrine_falcon_endpoint_packets_total{container="container-c",direction="sent",interface="eth0",network="falcon"}`,
		`peregrine_falcon_endpoint_bytes_total{container="container-d",direction="received",interface="eth0",network="falcon"}`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if status, err := health(t, n); err != nil || status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %s, %v", status, err)
	}

	n.Stop()
	for _, command := range []string{"status", "endpoints", "peers"} {
		if out, err := n.Falcond(command); err == nil || !strings.Contains(out, "start falcond") {
			t.Errorf("%s without the agent: %s, %v", command, out, err)
		}
	}
	if _, err := health(t, n); err == nil {
		t.Error("an agent that was stopped is healthy")
	}
	n.MustDel(list, c, d) // without it
	n.MustHold()
}
