package embed_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/peregrine-dev/peregrine/plasma/place/embed"
)

// victim is set in a process that is to be killed: the member's directory.
const victim = "PLASMA_TEST_MEMBER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(victim); dir != "" {
		write(dir)
	}
	code := m.Run()
	// Members' connections among each other end when a read of them has timed out, after 5 s.
	err := goleak.Find()
	for end := time.Now().Add(15 * time.Second); err != nil && time.Now().Before(end); {
		err = goleak.Find()
	}
	if err != nil && code == 0 {
		fmt.Println(err)
		code = 1
	}
	os.Exit(code)
}

// write says each number when etcd has acknowledged it.
func write(dir string) {
	m, err := embed.Start(context.Background(), embed.Config{Name: "test", Dir: dir})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for n := 1; ; n++ {
		if _, err := m.Client().Put(context.Background(), "n", strconv.Itoa(n)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
}

// Three members with TLS go on when one of them ends, and take it in again.
func TestThree(t *testing.T) {
	ca := newAuthority(t)
	var configs []embed.Config
	var cluster []string
	for i := range 3 {
		cert, key := ca.issue(t, fmt.Sprint("m", i))
		c := embed.Config{
			Name: fmt.Sprint("m", i), Dir: filepath.Join(t.TempDir(), "d"),
			ListenPeer: free(t), ListenClient: free(t), Cert: cert, Key: key, CA: ca.file,
		}
		configs = append(configs, c)
		cluster = append(cluster, c.Name+"="+c.ListenPeer)
	}
	type started struct {
		m   *embed.Member
		err error
	}
	answers := make([]chan started, 3)
	for i := range configs {
		configs[i].InitialCluster = strings.Join(cluster, ",")
		answers[i] = make(chan started, 1)
		go func() {
			m, err := embed.Start(t.Context(), configs[i])
			answers[i] <- started{m, err}
		}()
	}
	members := make([]*embed.Member, 3)
	for i := range members {
		s := <-answers[i]
		if s.err != nil {
			t.Fatal(s.err)
		}
		members[i] = s.m
		defer func() { members[i].Close() }()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	put(ctx, t, members[0].Client(), "1")
	members[0].Close()
	put(ctx, t, members[1].Client(), "2")
	var err error
	if members[0], err = embed.Start(ctx, configs[0]); err != nil {
		t.Fatal(err)
	}
	members[2].Close()
	r, err := members[0].Client().Get(ctx, "k")
	if err != nil || string(r.Kvs[0].Value) != "2" {
		t.Errorf("%v, %v", r, err)
	}

	// Clients need a certificate.
	endpoint := []string{configs[0].ListenClient}
	tls, err := transport.TLSInfo{CertFile: configs[1].Cert, KeyFile: configs[1].Key, TrustedCAFile: ca.file}.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	with, err := clientv3.New(clientv3.Config{Endpoints: endpoint, TLS: tls, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer with.Close()
	if _, err := with.Get(ctx, "k"); err != nil {
		t.Error(err)
	}
	bare := tls.Clone()
	bare.Certificates, bare.GetClientCertificate = nil, nil
	without, err := clientv3.New(clientv3.Config{Endpoints: endpoint, TLS: bare, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer without.Close()
	short, cancelShort := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancelShort()
	if _, err := without.Get(short, "k"); err == nil {
		t.Error("a client without a certificate was served")
	}
}

// put tries again while the members elect one of them.
func put(ctx context.Context, t *testing.T, c *clientv3.Client, value string) {
	t.Helper()
	for {
		_, err := c.Put(ctx, "k", value)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// Killed at any moment, it has all that it had acknowledged.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	for round := range 2 {
		c := exec.CommandContext(t.Context(), "/proc/self/exe")
		c.Env = append(os.Environ(), victim+"="+dir)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		said := 0
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if said, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatal(lines.Text())
			}
			if said == 100+37*round {
				_ = c.Process.Kill()
			}
		}
		if err := c.Wait(); err == nil {
			t.Fatal("it ended by itself")
		}
		m, err := embed.Start(t.Context(), embed.Config{Name: "test", Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		r, err := m.Client().Get(t.Context(), "n")
		m.Close()
		if err != nil || len(r.Kvs) != 1 {
			t.Fatalf("%v, %v", r, err)
		}
		if n, _ := strconv.Atoi(string(r.Kvs[0].Value)); n < said || n > said+1 {
			t.Errorf("%d was acknowledged, %d is there", said, n)
		}
	}
}

func TestStartFails(t *testing.T) {
	for _, bad := range []embed.Config{
		{ListenPeer: "10.0.0.1:2380"},
		{ListenClient: "unix:///x"},
		{AdvertiseClient: "http://"},
	} {
		bad.Name, bad.Dir = "test", t.TempDir()
		if _, err := embed.Start(t.Context(), bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	// Members that never come.
	peer, other := free(t), free(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := embed.Start(ctx, embed.Config{
		Name: "a", Dir: t.TempDir(), ListenPeer: "http" + strings.TrimPrefix(peer, "https"),
		InitialCluster: "a=http" + strings.TrimPrefix(peer, "https") + ",b=http" + strings.TrimPrefix(other, "https"),
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for other members: %v", err)
	}
	// An address in use.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := embed.Start(t.Context(), embed.Config{Name: "a", Dir: t.TempDir(), ListenClient: "http://" + l.Addr().String()}); err == nil {
		t.Error("it listens where another does")
	}
}

func TestClose(t *testing.T) {
	m, err := embed.Start(t.Context(), embed.Config{Name: "test", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if m.Err() != nil {
		t.Error(m.Err())
	}
	m.Close()
	m.Close()
	<-m.Done()
	if m.Err() != nil {
		t.Error(m.Err())
	}
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "https://" + l.Addr().String()
}
