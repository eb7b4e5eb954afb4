package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/peregrine-dev/peregrine/integration/bench"
	"github.com/peregrine-dev/peregrine/integration/harness"
)

const (
	patience = 5 * time.Second
	echoPort = 7
	webPort  = 80
	greeting = "hello from a container"
)

func addresses(result types.Result) (ip4, ip6 netip.Addr, err error) {
	r, err := types100.NewResultFromResult(result)
	if err != nil {
		return ip4, ip6, err
	}
	for _, ip := range r.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		if a = a.Unmap(); a.Is4() {
			ip4 = a
		} else {
			ip6 = a
		}
	}
	if !ip4.IsValid() || !ip6.IsValid() {
		return ip4, ip6, fmt.Errorf("a container got the addresses %v, want one of each family", r.IPs)
	}
	return ip4, ip6, nil
}

// service attaches a container to node b with a published port, and runs a web server in
// it by containerd and FlashCube. Beside it, this process answers echoes.
func (l *lan) service(ctx context.Context, b *harness.Bundle) (*lodger, error) {
	c, err := l.container(ctx, l.b, map[string]any{"portMappings": []map[string]any{
		{"hostPort": published, "containerPort": webPort, "protocol": "tcp"},
	}})
	if err != nil {
		return nil, err
	}
	for _, network := range []string{"udp", "tcp"} {
		for _, ip := range []netip.Addr{c.ip4, c.ip6} {
			server, err := c.Echo(network, netip.AddrPortFrom(ip, echoPort).String())
			if err != nil {
				return nil, err
			}
			l.undo = append(l.undo, server.Close)
		}
	}
	client, err := b.Client()
	if err != nil {
		return nil, err
	}
	l.undo = append(l.undo, client.Close)
	image, err := client.GetImage(ctx, "docker.io/peregrine/busybox:latest")
	if err != nil {
		return nil, err
	}
	const id = "demo-web"
	script := fmt.Sprintf("mkdir -p /tmp/www && echo '%s' >/tmp/www/index.html && exec httpd -f -p %d -h /tmp/www", greeting, webPort)
	web, err := client.NewContainer(ctx, id, containerd.WithImage(image), containerd.WithSnapshotter("overlayfs"),
		containerd.WithNewSnapshot(id, image), containerd.WithRuntime(harness.FlashcubeRuntime, nil),
		containerd.WithNewSpec(oci.WithImageConfig(image), oci.WithProcessArgs("sh", "-c", script), seccomp.WithDefaultProfile(),
			oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: c.Path()})))
	if err != nil {
		return nil, err
	}
	after := context.WithoutCancel(ctx)
	l.undo = append(l.undo, func() error { return web.Delete(after, containerd.WithSnapshotCleanup) })
	task, err := web.NewTask(ctx, cio.NullIO)
	if err != nil {
		return nil, err
	}
	l.undo = append(l.undo, func() error {
		_, err := task.Delete(after, containerd.WithProcessKill)
		return err
	})
	return c, task.Start(ctx)
}

// reach sends packets back and forth between the nodes' containers.
func (l *lan) reach(ctx context.Context, one, two *lodger) ([]Finding, error) {
	var seen []Finding
	for _, ip := range []netip.Addr{two.ip4, two.ip6} {
		conn, err := one.Dial("udp", netip.AddrPortFrom(ip, echoPort).String(), patience)
		if err != nil {
			return nil, err
		}
		const n = 200
		took := bench.Series{}
		for range n {
			t, err := roundTrip(conn)
			if err != nil {
				return nil, errors.Join(fmt.Errorf("from %s to %s: %w", conn.LocalAddr(), ip, err), conn.Close())
			}
			took = append(took, float64(t.Nanoseconds())/1e3)
		}
		seen = append(seen, Finding{
			fmt.Sprintf("container on a to container on b, %s", ip),
			fmt.Sprintf("%d packets there and back, median %s us", n, bench.Digits(took.Median())),
		})
		if err := conn.Close(); err != nil {
			return nil, err
		}
	}
	report, err := l.b.Report()
	if err != nil {
		return nil, err
	}
	path := report.Shortcut.Off
	if path == "" {
		var taken uint64
		for _, n := range report.Shortcut.Taken {
			taken += n
		}
		path = fmt.Sprintf("%d of them, past routes, bridge and rules, which the first of each flow had passed", taken)
	}
	return append(seen, Finding{"packets of these that took the shortcut on b", path}), ctx.Err()
}

// roundTrip sends a few bytes and waits for them to come back.
func roundTrip(conn net.Conn) (time.Duration, error) {
	began := time.Now()
	if err := conn.SetDeadline(began.Add(patience)); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(conn, "peregrine"); err != nil {
		return 0, err
	}
	buffer := make([]byte, len("peregrine"))
	_, err := io.ReadFull(conn, buffer)
	return time.Since(began), err
}

// publish asks the web server from outside by its node's port.
func (l *lan) publish(ctx context.Context, _, _ *lodger) ([]Finding, error) {
	url := fmt.Sprintf("http://%s:%d/", addressB, published)
	web := http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			return l.outside.Dial(network, address, patience)
		},
	}}
	// The server may be about to listen.
	for end := time.Now().Add(patience); ; {
		text, err := get(ctx, &web, url)
		switch {
		case err == nil && !strings.Contains(text, greeting):
			return nil, fmt.Errorf("%s said %q", url, text)
		case err == nil:
			return []Finding{{
				fmt.Sprintf("%s from %s outside, by portmap after falcon", url, addressOut),
				fmt.Sprintf("%q, from httpd in a FlashCube container", strings.TrimSpace(text)),
			}}, nil
		case time.Now().After(end):
			return nil, fmt.Errorf("from outside: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func get(ctx context.Context, web *http.Client, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := web.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return string(text), err
}

// spoof sends packets from a container that bear another's address.
func (l *lan) spoof(ctx context.Context, one, two *lodger) ([]Finding, error) {
	forged := one.ip4.Next()
	if err := one.Address("eth0", forged.String()+"/32"); err != nil {
		return nil, err
	}
	before, err := l.drops(one.link)
	if err != nil {
		return nil, err
	}
	heard, err := two.ListenPacket("udp", netip.AddrPortFrom(two.ip4, 9).String())
	if err != nil {
		return nil, err
	}
	defer heard.Close()
	const n = 10
	for _, from := range []netip.Addr{forged, one.ip4} { // the last shows that it would get there
		sender, err := one.ListenPacket("udp", netip.AddrPortFrom(from, 0).String())
		if err != nil {
			return nil, err
		}
		for range n {
			_, err = sender.WriteTo([]byte(from.String()), net.UDPAddrFromAddrPort(netip.AddrPortFrom(two.ip4, 9)))
			if err != nil {
				break
			}
		}
		if err := errors.Join(err, sender.Close()); err != nil {
			return nil, err
		}
	}
	if err := heard.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	buffer := make([]byte, 64)
	for range n {
		size, from, err := heard.ReadFrom(buffer)
		if err != nil {
			return nil, fmt.Errorf("a packet that is not forged: %w", err)
		}
		if string(buffer[:size]) != one.ip4.String() {
			return nil, fmt.Errorf("a forged packet arrived from %s", from)
		}
	}
	after, err := l.drops(one.link)
	if err != nil {
		return nil, err
	}
	var counted []string
	for reason, packets := range after {
		if more := packets - before[reason]; more > 0 {
			counted = append(counted, fmt.Sprintf("%d as %s", more, reason))
		}
	}
	if len(counted) == 0 {
		return nil, errors.New("forged packets were not counted")
	}
	return []Finding{{
		fmt.Sprintf("%d packets of %s that say they are of %s", n, one.ip4, forged),
		"none arrived; dropped and counted: " + strings.Join(counted, ", "),
	}}, ctx.Err()
}

// drops counts packets of a container that node a has dropped, by reason.
func (l *lan) drops(link string) (map[string]uint64, error) {
	report, err := l.a.Report()
	if err != nil {
		return nil, err
	}
	count := map[string]uint64{}
	for _, d := range report.Drops {
		if d.Link == link {
			count[d.Reason] += d.Packets
		}
	}
	return count, nil
}

// outlive kills the agents and starts them again while a TCP connection is used.
func (l *lan) outlive(ctx context.Context, one, two *lodger) ([]Finding, error) {
	conn, err := one.Dial("tcp", netip.AddrPortFrom(two.ip4, echoPort).String(), patience)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	type talk struct {
		count   int
		longest time.Duration
		err     error
	}
	stop, talked := make(chan struct{}), make(chan talk, 1)
	go func() {
		var t talk
		for {
			select {
			case <-stop:
				talked <- t
				return
			case <-time.After(time.Millisecond):
			}
			took, err := roundTrip(conn)
			if err != nil {
				t.err = err
				talked <- t
				return
			}
			t.count++
			t.longest = max(t.longest, took)
		}
	}()
	err = l.killAgents(ctx)
	close(stop)
	t := <-talked
	if err := errors.Join(err, t.err); err != nil {
		return nil, fmt.Errorf("a connection while falcond is killed: %w", err)
	}
	return []Finding{{
		"both falcond killed by SIGKILL and started again during a TCP connection",
		fmt.Sprintf("%d messages there and back, the longest took %s ms, no reset", t.count, bench.Digits(ms(t.longest))),
	}}, nil
}

func (l *lan) killAgents(ctx context.Context) error {
	if err := errors.Join(l.a.Kill(), l.b.Kill()); err != nil {
		return err
	}
	select { // without an agent for as long as it takes to see that it makes no difference
	case <-time.After(300 * time.Millisecond):
	case <-ctx.Done():
		return ctx.Err()
	}
	return errors.Join(l.a.Start(ctx), l.b.Start(ctx))
}
