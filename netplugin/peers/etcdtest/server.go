// Package etcdtest runs the real etcd, one member, for tests. It is Debian's, unpacked by
// `make stock`; a test that needs it fails without it.
package etcdtest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// started is how long etcd may take until it serves.
const started = 2 * time.Minute

// Server is an etcd. Its methods are for the test's goroutine.
type Server struct {
	// Endpoint is the URL for clients, the same after a restart.
	Endpoint string
	// PKI has the files by which clients get in; nil without TLS.
	PKI *PKI

	t     testing.TB
	args  []string
	data  string
	enter func() error
	run   *process
}

// Config is what an etcd differs in. The zero value is one on loopback without TLS.
type Config struct {
	// Host is the address to listen at, 127.0.0.1 if empty.
	Host string
	// TLS demands certificates of clients and shows one for Host.
	TLS bool
	// Enter, if not nil, is called on the thread that starts etcd, each time, before it
	// does: to change the network namespace. The thread is not used for anything else.
	Enter func() error
}

// Start starts an etcd and waits until it serves; it ends with the test.
func Start(t testing.TB, c Config) *Server {
	t.Helper()
	if c.Host == "" {
		c.Host = "127.0.0.1"
	}
	s := &Server{t: t, enter: c.Enter, data: filepath.Join(t.TempDir(), "etcd")}
	scheme := "http"
	if c.TLS {
		scheme, s.PKI = "https", NewPKI(t, c.Host)
		s.args = []string{
			"--client-cert-auth", "--trusted-ca-file", s.PKI.CA,
			"--cert-file", s.PKI.ServerCert, "--key-file", s.PKI.ServerKey,
		}
	}
	ports := freePorts(t)
	s.Endpoint = scheme + "://" + net.JoinHostPort(c.Host, ports[0])
	peer := "http://" + net.JoinHostPort(c.Host, ports[1])
	s.args = append(s.args,
		"--name", "test", "--data-dir", s.data, "--logger", "zap", "--log-outputs", "stderr",
		"--listen-client-urls", s.Endpoint, "--advertise-client-urls", s.Endpoint,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", "test="+peer,
		"--unsafe-no-fsync", // the machine doesn't crash in a test
		"--heartbeat-interval", "50", "--election-timeout", "500")
	t.Cleanup(func() {
		if s.run != nil {
			s.Kill()
		}
	})
	s.Restart()
	return s
}

// Restart starts etcd after Kill, with the data that it had, and waits until it serves.
func (s *Server) Restart() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), started)
	defer cancel()
	run, err := start(ctx, binary(s.t), s.args, s.enter)
	if err != nil {
		s.t.Fatalf("start etcd: %v", err)
	}
	s.run = run
}

// Kill ends etcd by SIGKILL, also if it is paused.
func (s *Server) Kill() {
	s.t.Helper()
	_ = s.run.cmd.Process.Kill()
	<-s.run.ended
	s.run = nil
}

// Pause stops etcd's process: connections stay, nothing answers.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume ends Pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.run.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("%s to etcd: %v", sig, err)
	}
}

// Wipe removes the data of an etcd that was killed.
func (s *Server) Wipe() {
	s.t.Helper()
	if err := os.RemoveAll(s.data); err != nil {
		s.t.Fatal(err)
	}
}

// Client returns a client, closed with the test. It is in the network namespace of whoever
// uses it, so not of use with Enter.
func (s *Server) Client() *clientv3.Client {
	s.t.Helper()
	config := clientv3.Config{Endpoints: []string{s.Endpoint}, Logger: zap.NewNop()}
	if s.PKI != nil {
		config.TLS = s.PKI.ClientConfig(s.t)
	}
	client, err := clientv3.New(config)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = client.Close() })
	return client
}

// binary finds etcd among the stock parts.
func binary(t testing.TB) string {
	t.Helper()
	cache := os.Getenv("PEREGRINE_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(dir, "peregrine")
	}
	path := filepath.Join(cache, "debian/usr/bin/etcd")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v; run `make stock`", err)
	}
	return path
}

// freePorts finds two ports of TCP that outgoing connections don't take while etcd is down:
// below those that the kernel gives out. They are free in the caller's namespace.
func freePorts(t testing.TB) (ports [2]string) {
	t.Helper()
	found := 0
	for range 1000 {
		port := strconv.Itoa(20000 + rand.IntN(12000))
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			continue
		}
		defer l.Close()
		ports[found] = port
		if found++; found == len(ports) {
			return ports
		}
	}
	t.Fatal("no free ports between 20000 and 32000")
	return ports
}

// process is a run of etcd.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// start returns when etcd serves. The process dies with this one.
func start(ctx context.Context, path string, args []string, enter func() error) (*process, error) {
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "ETCD_UNSUPPORTED_ARCH="+runtime.GOARCH)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	began, serves := make(chan error, 1), make(chan error, 1)
	go func() {
		// Pdeathsig is about the thread: it has to be there as long as the process. It is
		// not given back, for enter may have changed it.
		runtime.LockOSThread()
		defer close(p.ended)
		if enter != nil {
			if err := enter(); err != nil {
				began <- err
				return
			}
		}
		if err := cmd.Start(); err != nil {
			began <- err
			return
		}
		began <- nil
		follow(stderr, serves)
		_ = cmd.Wait()
	}()
	if err := <-began; err != nil {
		return nil, err
	}
	select {
	case err = <-serves:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		_ = cmd.Process.Kill()
		<-p.ended
		return nil, err
	}
	return p, nil
}

// follow reads etcd's log to its end. It sends nil when etcd serves, or the log's last
// lines if it ended before.
func follow(log io.Reader, serves chan<- error) {
	var last []string
	served := false
	for lines := bufio.NewScanner(log); lines.Scan(); {
		if served {
			continue
		}
		if strings.Contains(lines.Text(), `"serving client traffic`) {
			served = true
			serves <- nil
			continue
		}
		last = append(last, lines.Text())
		last = last[max(0, len(last)-10):]
	}
	_, _ = io.Copy(io.Discard, log) // after a line too long
	if !served {
		serves <- fmt.Errorf("etcd ended before it served:\n%s", strings.Join(last, "\n"))
	}
}
