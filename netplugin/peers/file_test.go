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

	"github.com/peregrine-dev/peregrine/netplugin/peers"
)

// text is a file with nodes.
func text(nodes ...peers.Node) string {
	var b strings.Builder
	b.WriteString("# nodes\n")
	for _, n := range nodes {
		fmt.Fprintf(&b, "[[node]]\nname = %q\naddress = %q\n", n.Name, n.Address)
		for vni, subnets := range n.Networks {
			fmt.Fprintf(&b, "[[node.network]]\nvni = %d\nsubnets = [", vni)
			for _, s := range subnets {
				fmt.Fprintf(&b, "%q,", s)
			}
			b.WriteString("]\n")
		}
	}
	return b.String()
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// replace is what most editors do.
func replace(t *testing.T, path, content string) {
	t.Helper()
	write(t, path+".new", content)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// fileSource doesn't reread: what a test sees came by an event.
func fileSource(path string) peers.Source { return peers.Recheck(peers.File(path), time.Hour) }

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nodes.toml")
	write(t, path, text(node(2), node(0), node(1)))
	r := run(t, fileSource(path), node(0))
	r.want(node(1), node(2))
	r.wantStatus("connected", func(s peers.Status) bool { return connected(s) && s.Nodes == 2 })

	replace(t, path, text(node(0), node(1), node(2), node(3)))
	r.want(node(1), node(2), node(3))

	write(t, path, text(node(0), at(node(1), "192.0.9.9"), node(3))) // in place
	r.want(at(node(1), "192.0.9.9"), node(3))

	replace(t, path, text(node(0)))
	r.want()
}

func TestFileBad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nodes.toml")
	write(t, path, text(node(0), node(1)))
	r := run(t, fileSource(path), node(0))
	r.want(node(1))
	for name, damage := range map[string]func(){
		"syntax":  func() { replace(t, path, "[[node") },
		"unknown": func() { write(t, path, text(node(1))+"nmae = 7\n") },
		"empty":   func() { write(t, path, "") },
		"removed": func() { _ = os.Remove(path) },
		"a directory": func() {
			_ = os.Remove(path)
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		},
	} {
		before, _ := r.last()
		damage()
		r.wantStatus("lost: "+name, lost)
		if calls, list := r.last(); calls != before || !same(list, []peers.Node{node(1)}) {
			t.Fatalf("%s: %d calls more, the last with %v", name, calls-before, list)
		}
		_ = os.Remove(path)
		replace(t, path, text(node(0), node(1)))
		r.wantStatus("connected again", connected)
		r.want(node(1))
	}
	// A bad node costs that node only.
	replace(t, path, text(node(2), subnets(node(3), 42, "10.0.0.0/24"), at(node(1), "127.0.0.1")))
	r.want(node(2))
	s := r.status()
	if len(s.Rejected) != 2 || s.Rejected[0].Name != "n1" || !errdefs.IsInvalidArgument(s.Rejected[0].Err) ||
		s.Rejected[1].Name != "n3" || !errdefs.IsAlreadyExists(s.Rejected[1].Err) || !connected(s) {
		t.Fatalf("status %+v", s)
	}
}

// TestFileLater begins without the file's directory, which nothing can watch.
func TestFileLater(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "falcon")
	path := filepath.Join(dir, "nodes.toml")
	r := run(t, peers.Recheck(peers.File(path), 20*time.Millisecond), node(0))
	r.wantStatus("lost", lost)
	if calls, _ := r.last(); calls != 0 {
		t.Fatal("a list without a file")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, path, text(node(1)))
	r.want(node(1))
	// The directory becomes another one.
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r.wantStatus("lost", lost)
	write(t, path, text(node(2)))
	r.want(node(2))
}

// TestFileConfigMap changes a file as Kubernetes does: nodes.toml -> ..data/nodes.toml,
// ..data -> a directory, which is replaced.
func TestFileConfigMap(t *testing.T) {
	dir := t.TempDir()
	put := func(version, content string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "nodes.toml"), content)
		if err := os.Symlink(version, filepath.Join(dir, "..tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	put("..1", text(node(1)))
	if err := os.Symlink("..data/nodes.toml", filepath.Join(dir, "nodes.toml")); err != nil {
		t.Fatal(err)
	}
	r := run(t, fileSource(filepath.Join(dir, "nodes.toml")), node(0))
	r.want(node(1))
	for i := 2; i < 5; i++ {
		put(fmt.Sprintf("..%d", i), text(node(i)))
		if err := os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..%d", i-1))); err != nil {
			t.Fatal(err)
		}
		r.want(node(i))
	}
}

// TestFileLink changes the file that a link in another directory leads to.
func TestFileLink(t *testing.T) {
	target, link := filepath.Join(t.TempDir(), "shared.toml"), filepath.Join(t.TempDir(), "nodes.toml")
	write(t, target, text(node(1)))
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	r := run(t, fileSource(link), node(0))
	r.want(node(1))
	replace(t, target, text(node(2)))
	r.want(node(2))
}

// TestFileRush changes the file all the time: the last content is seen, and calls are few.
func TestFileRush(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nodes.toml")
	write(t, path, text(node(1)))
	r := run(t, fileSource(path), node(0))
	r.want(node(1))
	const changes = 2000
	for i := range changes {
		replace(t, path, text(node(1), node(2+i%5)))
	}
	replace(t, path, text(node(9)))
	r.want(node(9))
	if calls, _ := r.last(); calls > changes/10 {
		t.Errorf("%d calls for %d changes", calls, changes)
	}
}

// TestKeep has what was handed out changed, which must not come back.
func TestKeep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nodes.toml")
	write(t, path, text(node(1), node(2)))
	lists := make(chan []peers.Node)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- fileSource(path).Run(ctx, node(0), func(nodes []peers.Node) { lists <- nodes })
	}()
	list := <-lists
	clear(list[0].Networks)
	list[1].Networks[42][0] = list[1].Networks[42][0].Masked()
	clear(list)
	replace(t, path, text(node(1), node(2), node(3)))
	if list := <-lists; !same(list, []peers.Node{node(1), node(2), node(3)}) {
		t.Errorf("got %v", list)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
