package peers_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/peregrine-dev/peregrine/netplugin/peers"
	"github.com/peregrine-dev/peregrine/netplugin/peers/etcdtest"
)

const key = "/falcon/nodes/"

func config(s *etcdtest.Server) peers.EtcdConfig {
	c := peers.EtcdConfig{Endpoints: []string{s.Endpoint}}
	if s.PKI != nil {
		c.CA, c.Cert, c.Key = s.PKI.CA, s.PKI.ClientCert, s.PKI.ClientKey
	}
	return c
}

// join runs a node with a source of its own.
func join(t testing.TB, s *etcdtest.Server, self peers.Node) *running {
	return run(t, peers.Hurry(peers.Etcd(config(s))), self)
}

func leave(t testing.TB, s *etcdtest.Server, self peers.Node) error {
	t.Helper()
	return peers.Patient(peers.Etcd(config(s))).(peers.Leaver).Leave(t.Context(), self)
}

// put writes a record past the source.
func put(t testing.TB, c *clientv3.Client, n peers.Node, options ...clientv3.OpOption) {
	t.Helper()
	if _, err := c.Put(t.Context(), key+n.Name, string(peers.EncodeRecord(n, "")), options...); err != nil {
		t.Fatal(err)
	}
}

func TestEtcd(t *testing.T) {
	s := etcdtest.Start(t, etcdtest.Config{})
	a := join(t, s, node(1))
	a.want()
	b := join(t, s, node(2))
	b.want(node(1))
	a.want(node(2))
	a.wantStatus("connected", func(s peers.Status) bool { return connected(s) && s.Nodes == 1 })

	// The agent ends, the node stays; it comes back with another address and subnet.
	b.stop()
	moved := subnets(at(node(2), "192.0.9.9"), 42, "10.9.0.0/24", "fd00::/64")
	b = run(t, b.source, moved)
	b.want(node(1))
	a.want(moved)

	// A record that is removed by hand is back at once, under the lease.
	c := s.Client()
	got, err := c.Get(t.Context(), key+"n2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Delete(t.Context(), key+"n2"); err != nil {
		t.Fatal(err)
	}
	for {
		again, err := c.Get(t.Context(), key+"n2")
		if err != nil {
			t.Fatal(err)
		}
		if len(again.Kvs) == 1 {
			if again.Kvs[0].Lease != got.Kvs[0].Lease {
				t.Errorf("another lease")
			}
			break
		}
	}
	ttl, err := c.TimeToLive(t.Context(), clientv3.LeaseID(got.Kvs[0].Lease), clientv3.WithAttachedKeys())
	if err != nil || ttl.GrantedTTL != 24*60*60 || len(ttl.Keys) != 1 {
		t.Errorf("lease %+v, %v", ttl, err)
	}
	a.want(moved)

	// Leave.
	b.stop()
	for range 2 { // the second finds nothing
		if err := leave(t, s, moved); err != nil {
			t.Fatal(err)
		}
	}
	a.want()
	if leases, err := c.Leases(t.Context()); err != nil || len(leases.Leases) != 1 {
		t.Errorf("leases %v, %v, want that of n1 only", leases, err)
	}
	b = run(t, b.source, node(2)) // with a lease that is gone
	a.want(node(2))
	b.wantStatus("published", connected)
}

func TestEtcdKilled(t *testing.T) {
	s := etcdtest.Start(t, etcdtest.Config{})
	a, b := join(t, s, node(1)), join(t, s, node(2))
	a.want(node(2))
	b.want(node(1))
	calls, _ := a.last()
	s.Kill()
	a.wantStatus("lost", lost)
	b.wantStatus("lost", lost)
	// One that starts now has no list, for it knows nothing.
	c := join(t, s, node(3))
	c.wantStatus("lost", lost)
	s.Restart()
	c.want(node(1), node(2))
	a.want(node(2), node(3))
	b.want(node(1), node(3))
	a.wantStatus("connected", connected)
	if now, _ := a.last(); now != calls+1 {
		t.Errorf("%d calls for one node that joined", now-calls)
	}
}

func TestEtcdPaused(t *testing.T) {
	s := etcdtest.Start(t, etcdtest.Config{})
	a, b := join(t, s, node(1)), join(t, s, node(2))
	a.want(node(2))
	b.want(node(1))
	s.Pause()
	a.wantStatus("lost", lost)
	if _, list := a.last(); !same(list, []peers.Node{node(2)}) {
		t.Errorf("the outage changed the list to %v", list)
	}
	b.stop() // must not wait for etcd
	s.Resume()
	a.wantStatus("connected", connected)
	run(t, b.source, at(node(2), "192.0.9.9"))
	a.want(at(node(2), "192.0.9.9"))
}

// TestEtcdPausedEarly pauses etcd at many moments of a node's first second.
func TestEtcdPausedEarly(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, etcdtest.Config{})
	put(t, s.Client(), node(3))
	for i := range 8 {
		a := join(t, s, node(1))
		<-time.After(time.Duration(i) * 4 * time.Millisecond)
		s.Pause()
		a.wantStatus("lost", lost)
		s.Resume()
		a.want(node(3))
		a.wantStatus("published", connected)
		a.stop()
		if err := leave(t, s, node(1)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEtcdCompacted has everything that happened in an outage compacted away. The outage
// is one of the watch only.
func TestEtcdCompacted(t *testing.T) {
	s := etcdtest.Start(t, etcdtest.Config{})
	client := s.Client()
	put(t, client, node(3))
	put(t, client, node(4))
	p := newProxy(t, strings.TrimPrefix(s.Endpoint, "http://"))
	c := config(s)
	c.Endpoints = []string{"http://" + p.address()}
	a := run(t, peers.NoCheck(peers.Hurry(peers.Etcd(c))), node(1))
	a.want(node(3), node(4))
	a.wantStatus("connected", connected)
	b := join(t, s, node(2))
	a.want(node(2), node(3), node(4))
	b.stop()

	p.cut()
	put(t, client, node(5))
	response, err := client.Delete(t.Context(), key+"n3")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Compact(t.Context(), response.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	since := a.status().Since
	p.mend()
	a.want(node(2), node(4), node(5))
	if s := a.status(); !s.Since.After(since) {
		t.Errorf("the watch went on: %+v", s)
	}
}

// TestEtcdExpired has a node that died and isn't coming back.
func TestEtcdExpired(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, etcdtest.Config{})
	client := s.Client()
	lease, err := client.Grant(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	put(t, client, node(2), clientv3.WithLease(lease.ID))
	a := join(t, s, node(1))
	a.want(node(2))
	a.want()

	// A living one's lease is renewed: it outlives its TTL, and an outage shorter than it.
	c := config(s)
	c.TTL = 6 * time.Second
	b := run(t, peers.Hurry(peers.Etcd(c)), node(2))
	a.want(node(2))
	calls, _ := a.last()
	<-time.After(c.TTL + 2*time.Second)
	if now, list := a.last(); now != calls {
		t.Errorf("%d calls while nothing happened, the last with %v", now-calls, list)
	}
	b.stop()
	a.want()
	// Its lease is gone when it is back.
	run(t, b.source, node(2))
	a.want(node(2))
}

// TestEtcdRevoked takes the lease from under a node.
func TestEtcdRevoked(t *testing.T) {
	s := etcdtest.Start(t, etcdtest.Config{})
	a, b := join(t, s, node(1)), join(t, s, node(2))
	a.want(node(2))
	client := s.Client()
	got, err := client.Get(t.Context(), key+"n2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Revoke(t.Context(), clientv3.LeaseID(got.Kvs[0].Lease)); err != nil {
		t.Fatal(err)
	}
	for {
		again, err := client.Get(t.Context(), key+"n2")
		if err != nil {
			t.Fatal(err)
		}
		if len(again.Kvs) == 1 && again.Kvs[0].Lease != got.Kvs[0].Lease {
			break
		}
	}
	a.want(node(2))
	b.wantStatus("published", connected)
}

// TestEtcdWiped loses all data. The new store is at a lower revision than the watches.
func TestEtcdWiped(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, etcdtest.Config{})
	client := s.Client()
	for range 100 {
		put(t, client, node(3))
	}
	a, b := join(t, s, node(1)), join(t, s, node(2))
	a.want(node(2), node(3))
	b.want(node(1), node(3))
	calls, _ := a.last()
	s.Kill()
	s.Wipe()
	s.Restart()
	c := join(t, s, node(4))
	c.want(node(1), node(2))
	// n3 isn't coming back, but n2 was never gone.
	a.want(node(2), node(3), node(4))
	a.want(node(2), node(4))
	b.want(node(1), node(4))
	a.wantStatus("connected", connected)
	if now, _ := a.last(); now != calls+2 {
		t.Errorf("%d calls for a node that joined and one that is gone", now-calls)
	}

	// A node that is held, and leaves or comes back as another, isn't held any longer.
	s.Kill()
	s.Wipe()
	b.stop()
	s.Restart()
	a.wantStatus("lost and found", func(s peers.Status) bool { return connected(s) && s.Nodes == 2 })
	put(t, client, at(node(2), "192.0.9.9"))
	a.want(at(node(2), "192.0.9.9"), node(4))
	if _, err := client.Delete(t.Context(), key+"n2"); err != nil {
		t.Fatal(err)
	}
	a.want(node(4))
}

func TestEtcdTLS(t *testing.T) {
	s := etcdtest.Start(t, etcdtest.Config{TLS: true})
	a, b := join(t, s, node(1)), join(t, s, node(2))
	a.want(node(2))
	b.want(node(1))
	if err := leave(t, s, node(3)); err != nil {
		t.Error(err)
	}

	for name, change := range map[string]func(*peers.EtcdConfig){
		"no certificate": func(c *peers.EtcdConfig) { c.Cert, c.Key = "", "" },
		"other authority": func(c *peers.EtcdConfig) {
			c.CA = etcdtest.NewPKI(t, "127.0.0.1").CA
		},
		"the host's authorities": func(c *peers.EtcdConfig) { c.CA = "" },
		"CA isn't there":         func(c *peers.EtcdConfig) { c.CA += "x" },
		"CA is none":             func(c *peers.EtcdConfig) { c.CA = c.Key },
		"key isn't there":        func(c *peers.EtcdConfig) { c.Key += "x" },
		"without TLS": func(c *peers.EtcdConfig) {
			*c = peers.EtcdConfig{Endpoints: []string{strings.Replace(s.Endpoint, "https", "http", 1)}}
		},
	} {
		c := config(s)
		change(&c)
		r := run(t, peers.Hurry(peers.Etcd(c)), node(9))
		r.wantStatus("lost: "+name, lost)
		r.stop()
		if calls, _ := r.last(); calls != 0 {
			t.Errorf("%s: got in", name)
		}
	}

	// The reason is told.
	c := config(s)
	c.CA = etcdtest.NewPKI(t, "127.0.0.1").CA
	r := run(t, peers.Hurry(peers.Etcd(c)), node(9))
	r.wantStatus("explained", func(s peers.Status) bool { return s.Err != nil && strings.Contains(s.Err.Error(), "x509") })
	r.stop()

	// A certificate that is put right is used without a restart.
	c = config(s)
	c.Cert = filepath.Join(t.TempDir(), "node.crt")
	r = run(t, peers.Hurry(peers.Etcd(c)), node(3))
	r.wantStatus("lost", lost)
	if err := os.Symlink(s.PKI.ClientCert, c.Cert); err != nil {
		t.Fatal(err)
	}
	r.want(node(1), node(2))
}

func TestEtcdPassword(t *testing.T) {
	s := etcdtest.Start(t, etcdtest.Config{})
	client := s.Client()
	ctx := t.Context()
	for _, step := range []func() error{
		func() error { _, err := client.RoleAdd(ctx, "root"); return err },
		func() error { _, err := client.UserAdd(ctx, "root", "secret"); return err },
		func() error { _, err := client.UserGrantRole(ctx, "root", "root"); return err },
		// What a node needs: to read all nodes and to write its own.
		func() error { _, err := client.RoleAdd(ctx, "n1"); return err },
		func() error {
			_, err := client.RoleGrantPermission(ctx, "n1", key, clientv3.GetPrefixRangeEnd(key), clientv3.PermissionType(clientv3.PermRead))
			return err
		},
		func() error {
			_, err := client.RoleGrantPermission(ctx, "n1", key+"n1", "", clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := client.UserAdd(ctx, "n1", "pass"); return err },
		func() error { _, err := client.UserGrantRole(ctx, "n1", "n1"); return err },
		func() error { _, err := client.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	c := config(s)
	c.Username, c.PasswordFile = "n1", filepath.Join(t.TempDir(), "password")
	write(t, c.PasswordFile, "wrong\n")
	a := run(t, peers.Hurry(peers.Etcd(c)), node(1))
	a.wantStatus("lost", lost)
	write(t, c.PasswordFile, "pass\n")
	a.want()
	a.wantStatus("published", connected)
	other := run(t, peers.Hurry(peers.Etcd(c)), node(2)) // whose record is not n1's to write
	other.want(node(1))
	other.wantStatus("refused", func(s peers.Status) bool { return s.Err != nil && strings.Contains(s.Err.Error(), "permission denied") })
}

func conflicting(s peers.Status) bool { return s.Connected && errdefs.IsAlreadyExists(s.Err) }

func TestEtcdOneName(t *testing.T) {
	s := etcdtest.Start(t, etcdtest.Config{})
	a, c := join(t, s, node(1)), join(t, s, node(3))
	c.want(node(1))
	second := named(node(2), "n1")
	b := join(t, s, second)
	b.wantStatus("in conflict", conflicting)
	if err := b.status().Err.Error(); !strings.Contains(err, "192.0.0.1") || !strings.Contains(err, key+"n1") {
		t.Errorf("the error doesn't help: %s", err)
	}
	b.want(node(3)) // it has peers all the same
	if err := leave(t, s, second); !errdefs.IsAlreadyExists(err) {
		t.Errorf("left for another: %v", err)
	}
	c.want(node(1))
	a.wantStatus("published", connected)

	// The conflict ends when the first is gone.
	a.stop()
	if err := leave(t, s, node(1)); err != nil {
		t.Fatal(err)
	}
	c.want(second)
	b.wantStatus("published", connected)

	// A record that can't be read isn't overwritten, and doesn't harm others.
	client := s.Client()
	if _, err := client.Put(t.Context(), key+"n7", "{"); err != nil {
		t.Fatal(err)
	}
	d := join(t, s, node(7))
	d.wantStatus("in conflict", conflicting)
	c.wantStatus("rejecting", func(s peers.Status) bool {
		return s.Connected && len(s.Rejected) == 1 && s.Rejected[0].Name == "n7"
	})
	if _, err := client.Delete(t.Context(), key+"n7"); err != nil {
		t.Fatal(err)
	}
	c.want(second, node(7))
}

// TestEtcdInstance has a node come back with another address, which it had no chance to
// leave with, and copies of it.
func TestEtcdInstance(t *testing.T) {
	s := etcdtest.Start(t, etcdtest.Config{})
	watcher := join(t, s, node(9))
	instance := func(id string, n peers.Node) *running {
		c := config(s)
		c.Instance = id
		return run(t, peers.Hurry(peers.Etcd(c)), n)
	}
	a := instance("a", node(1))
	watcher.want(node(1))
	a.stop()
	moved := at(node(1), "192.0.9.1")
	a = instance("a", moved)
	watcher.want(moved)

	copied := at(node(1), "192.0.9.2")
	b := instance("a", copied)
	watcher.want(copied)
	a.wantStatus("in conflict", conflicting)
	b.wantStatus("published", connected)
	calls, _ := watcher.last()

	// Another installation at the same address is the same node, installed again.
	b.stop()
	b = instance("b", copied)
	b.wantStatus("published", connected)
	if now, list := watcher.last(); now != calls {
		t.Errorf("the copies take turns: %v", list)
	}
	reinstalled := instance("c", at(node(1), "192.0.9.3"))
	reinstalled.wantStatus("in conflict", conflicting)
}

// TestEtcdOrder has two nodes with one subnet: on every node the first is the one.
func TestEtcdOrder(t *testing.T) {
	s := etcdtest.Start(t, etcdtest.Config{})
	client := s.Client()
	put(t, client, node(5))
	thief := subnets(node(4), 42, "10.0.5.0/24") // before n5 by name
	put(t, client, thief)
	a := join(t, s, node(1))
	a.want(node(5))
	if _, err := client.Delete(t.Context(), key+"n5"); err != nil {
		t.Fatal(err)
	}
	a.want(thief)
}

// TestEtcdMany has many nodes come and go.
func TestEtcdMany(t *testing.T) {
	s := etcdtest.Start(t, etcdtest.Config{})
	client := s.Client()
	a := join(t, s, named(node(0), "self"))
	const nodes = 500
	for i := 0; i < nodes; i += 100 { // etcd takes 128 at once
		var ops []clientv3.Op
		for j := range 100 {
			n := named(node(i+j+1), fmt.Sprintf("n%04d", i+j+1))
			ops = append(ops, clientv3.OpPut(key+n.Name, string(peers.EncodeRecord(n, ""))))
		}
		if _, err := client.Txn(t.Context()).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	a.wantStatus("complete", func(s peers.Status) bool { return s.Nodes == nodes })
	if _, err := client.Delete(t.Context(), key+"n", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	a.want()
}

// TestEtcdNone ends while there is nothing to connect to.
func TestEtcdNone(t *testing.T) {
	c := peers.EtcdConfig{Endpoints: []string{"http://127.0.0.1:9"}} // discard
	r := run(t, peers.Hurry(peers.Etcd(c)), node(1))
	r.wantStatus("lost", lost)
	r.stop()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := peers.Etcd(c).(peers.Leaver).Leave(ctx, node(1)); err == nil {
		t.Error("left nothing")
	}
}
