package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Ports of the servers.
const (
	memcachedPort = 11211
	nginxPort     = 80
)

// program makes the command of one of Debian's, for a container.
func (b *netBench) program(ctx context.Context, path string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.CommandContext(ctx, filepath.Join(string(b.debian), path), args...)
	said := &bytes.Buffer{}
	cmd.Env, cmd.Stdout, cmd.Stderr = b.debian.Env(), said, said
	cmd.WaitDelay = time.Second
	return cmd, said
}

// run runs a program in a container on a core, until it ends by itself or with its context.
func (l lodger) run(cmd *exec.Cmd, core int) error {
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL} // of a thread that lives as long
	// Children have the thread's core and namespace.
	return pinned(core, false, func() error { return l.Do(cmd.Run) })
}

// serve runs a server in a container of the far node, and returns when it answers, seen from
// another container. What ends it is in undo.
func (b *netBench) serve(ctx context.Context, at, from lodger, port uint16, path string, args ...string) error {
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	cmd, said := b.program(serving, path, args...)
	ended := make(chan error, 1)
	go func() { ended <- at.run(cmd, farCore) }()
	b.undo = append(b.undo, func() error {
		stop()
		if err := <-ended; cmd.ProcessState == nil { // it never ran
			return err
		}
		return nil
	})
	for end := time.Now().Add(patience); ; {
		fd, err := from.connect(netip.AddrPortFrom(at.address, port))
		if err == nil {
			return unix.Close(fd)
		}
		if !errors.Is(err, unix.ECONNREFUSED) || time.Now().After(end) {
			return fmt.Errorf("%s does not serve: %w: %s", filepath.Base(path), err, b.last(ended, said))
		}
		if len(ended) > 0 {
			return fmt.Errorf("%s has ended: %s", filepath.Base(path), b.last(ended, said))
		}
		if err := wait(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// last is what a server that has ended said; one that runs may be about to say something.
func (b *netBench) last(ended chan error, said *bytes.Buffer) string {
	select {
	case err := <-ended:
		ended <- err
		return fmt.Sprintf("%v: %s", err, bytes.TrimSpace(said.Bytes()))
	default:
		return "it runs"
	}
}

// memcached serves in a container.
func (b *netBench) memcached(ctx context.Context, at, from lodger) error {
	return b.serve(ctx, at, from, memcachedPort, "usr/bin/memcached", "-u", "root", "-t", "1", "-m", "64", "-U", "0",
		"-l", at.address.String(), "-p", strconv.Itoa(memcachedPort))
}

const page = "<!doctype html><title>Peregrine</title><p>A small page.</p>\n"

// nginx serves a page in a container.
func (b *netBench) nginx(ctx context.Context, at, from lodger) error {
	dir, err := os.MkdirTemp(b.dir, "nginx")
	if err != nil {
		return err
	}
	conf := fmt.Sprintf(`user root;
daemon off;
master_process off;
worker_processes 1;
error_log stderr;
pid %[1]s/pid;
events { worker_connections 256; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	keepalive_requests 1000000;
	server { listen %[2]s:%[3]d; root %[1]s; }
}
`, dir, at.address, nginxPort)
	file := filepath.Join(dir, "nginx.conf")
	if err := errors.Join(
		os.WriteFile(file, []byte(conf), 0o600),
		os.WriteFile(filepath.Join(dir, "index.html"), []byte(page), 0o600),
	); err != nil {
		return err
	}
	return b.serve(ctx, at, from, nginxPort, "usr/sbin/nginx", "-p", dir, "-c", file, "-e", "stderr")
}

var perSecond = regexp.MustCompile(`(?m)^Requests/sec:\s+([0-9.]+)$`)

// wrk asks a web server for its page over 16 connections for a second, and returns requests
// per second.
func (b *netBench) wrk(ctx context.Context, from, at lodger) (float64, error) {
	cmd, said := b.program(ctx, "usr/bin/wrk", "-t", "1", "-c", "16", "-d", "1", fmt.Sprintf("http://%s:%d/", at.address, nginxPort))
	if err := from.run(cmd, nearCore); err != nil {
		return 0, fmt.Errorf("wrk: %w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	return requests(said.Bytes())
}

// requests is the rate that wrk printed.
func requests(said []byte) (float64, error) {
	found := perSecond.FindSubmatch(said)
	if found == nil || bytes.Contains(said, []byte("Non-2xx")) {
		return 0, fmt.Errorf("wrk printed no rate of good answers: %s", said)
	}
	return strconv.ParseFloat(string(found[1]), 64)
}
