package web

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/peregrine-dev/peregrine/plasma/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source is a cluster whose status is set by a test.
type source struct {
	lock    sync.Mutex
	now     *status.Cluster
	changed chan struct{}
}

func newSource(c *status.Cluster) *source { return &source{now: c, changed: make(chan struct{})} }

func (s *source) set(c *status.Cluster) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.now = c
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *source) Watch(ctx context.Context, each func(*status.Cluster) error) error {
	for {
		s.lock.Lock()
		now, changed := s.now, s.changed
		s.lock.Unlock()
		if err := each(now); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func serve(t *testing.T, watch Watch) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(New(watch))
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections) // streams have no end of their own
	return s
}

func get(t *testing.T, s *httptest.Server, method, path, host, site string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	if site != "" {
		r.Header.Set("Sec-Fetch-Site", site)
	}
	answer, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(text)
}

func TestRequests(t *testing.T) {
	s := serve(t, newSource(&status.Cluster{Version: status.Version, Cluster: "here"}).Watch)
	for _, test := range []struct {
		method, path, host, site string
		code                     int
		kind, want               string
	}{
		{"GET", "/", "127.0.0.1:7780", "", 200, "text/html; charset=utf-8", "<title>PLASMA"},
		{"GET", "/", "localhost:7780", "cross-site", 200, "text/html; charset=utf-8", "script.js"},
		{"GET", "/", "LOCALHOST", "", 200, "text/html; charset=utf-8", ""},
		{"GET", "/", "[::1]:7780", "", 200, "text/html; charset=utf-8", ""},
		{"GET", "/", "127.9.9.9", "", 200, "text/html; charset=utf-8", ""},
		{"HEAD", "/", "[::1]", "", 200, "text/html; charset=utf-8", ""},
		{"GET", "/style.css", "localhost", "same-origin", 200, "text/css; charset=utf-8", "prefers-color-scheme"},
		{"GET", "/script.js", "localhost", "", 200, "", "EventSource"},
		{"GET", "/map.js", "localhost", "", 200, "", "svg"},
		{"GET", "/panels.js", "localhost", "", 200, "", "element"},
		{"GET", "/icon.svg", "localhost", "", 200, "image/svg+xml", "<svg"},
		{"GET", "/status.json", "localhost", "none", 200, "application/json", `"cluster":"here"`},
		{"GET", "/status.json", "localhost", "cross-site", 403, "", "the page of plasmad only"},
		{"GET", "/events", "localhost", "same-site", 403, "", ""},
		{"GET", "/", "rebound.example:7780", "", 403, "", "for loopback only"},
		{"GET", "/status.json", "192.0.2.1", "", 403, "", ""},
		{"GET", "/", "127.0.0.1.example", "", 403, "", ""},
		{"GET", "/", "0.0.0.0:7780", "", 403, "", ""},
		{"POST", "/status.json", "localhost", "", 405, "", ""},
		{"DELETE", "/", "localhost", "", 405, "", ""},
		{"GET", "/none", "localhost", "", 404, "", ""},
		{"GET", "/web.go", "localhost", "", 404, "", ""},
	} {
		t.Run(test.method+" "+test.host+test.path+" "+test.site, func(t *testing.T) {
			r, text := get(t, s, test.method, test.path, test.host, test.site)
			if r.StatusCode != test.code || !strings.Contains(text, test.want) || test.kind != "" && r.Header.Get("Content-Type") != test.kind {
				t.Errorf("%d, %s:\n%s", r.StatusCode, r.Header.Get("Content-Type"), text)
			}
			if !strings.HasPrefix(r.Header.Get("Content-Security-Policy"), "default-src 'none'; script-src 'self';") {
				t.Errorf("the policy is %q", r.Header.Get("Content-Security-Policy"))
			}
		})
	}
}

// events reads a stream.
type events struct {
	t    *testing.T
	body io.ReadCloser
	from *bufio.Reader
}

func open(t *testing.T, s *httptest.Server) *events {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != http.StatusOK {
		answer.Body.Close()
		t.Fatal(answer.Status)
	}
	return &events{t, answer.Body, bufio.NewReader(answer.Body)}
}

// next gives the next event's kind and data.
func (e *events) next() (kind, data string) {
	e.t.Helper()
	for {
		line, err := e.from.ReadString('\n')
		if err != nil {
			e.t.Fatal(err)
		}
		if name, ok := strings.CutPrefix(line, "event: "); ok {
			kind = strings.TrimSpace(name)
		}
		if text, ok := strings.CutPrefix(line, "data: "); ok {
			return kind, text
		}
	}
}

func (e *events) status() *status.Cluster {
	e.t.Helper()
	kind, data := e.next()
	c := new(status.Cluster)
	if err := json.Unmarshal([]byte(data), c); err != nil || kind != "status" {
		e.t.Fatalf("%s %s: %v", kind, data, err)
	}
	return c
}

func TestStream(t *testing.T) {
	from := newSource(&status.Cluster{Leader: "a"})
	e := open(t, serve(t, from.Watch))
	defer e.body.Close()
	if c := e.status(); c.Leader != "a" {
		t.Errorf("at first %+v", c)
	}
	// Of many changes a reader sees the last, and not many more.
	began := time.Now()
	for range 1000 {
		from.set(&status.Cluster{Leader: "b"})
	}
	from.set(&status.Cluster{Leader: "c"})
	seen := 1
	for e.status().Leader != "c" {
		seen++
	}
	if most := 2 + int(time.Since(began)/pace); seen > most {
		t.Errorf("%d statuses in %s", seen, time.Since(began))
	}
}

// A reader that does not read holds up neither the source nor others.
func TestSlowReader(t *testing.T) {
	from := newSource(&status.Cluster{})
	s := httptest.NewUnstartedServer(New(from.Watch))
	// Sockets that hold little are soon full.
	s.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if err := c.(*net.TCPConn).SetWriteBuffer(4096); err != nil {
			t.Error(err)
		}
		return ctx
	}
	s.Start()
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	slow, quick := open(t, s), open(t, s)
	defer slow.body.Close()
	defer quick.body.Close()
	large := strings.Repeat("x", 1<<20)
	for _, leader := range []string{"a", "b", "c"} {
		from.set(&status.Cluster{Cluster: large, Leader: leader})
		for quick.status().Leader != leader {
		}
	}
}

func TestStreamsAreBounded(t *testing.T) {
	s := serve(t, newSource(&status.Cluster{}).Watch)
	var all []*events
	for range MaxStreams {
		e := open(t, s)
		defer e.body.Close()
		e.status()
		all = append(all, e)
	}
	if r, text := get(t, s, "GET", "/events", "localhost", ""); r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" {
		t.Errorf("one more: %s %s", r.Status, text)
	}
	all[0].body.Close()
	for deadline := time.Now().Add(10 * time.Second); ; {
		r, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("there is no room after one was closed")
		}
	}
}

func TestNoStatus(t *testing.T) {
	s := serve(t, func(context.Context, func(*status.Cluster) error) error { return errors.New("no leader is known") })
	if r, text := get(t, s, "GET", "/status.json", "localhost", ""); r.StatusCode != http.StatusServiceUnavailable || !strings.Contains(text, "no leader is known") {
		t.Errorf("%s %s", r.Status, text)
	}
	e := open(t, s)
	defer e.body.Close()
	if kind, data := e.next(); kind != "trouble" || !strings.Contains(data, "no leader is known") {
		t.Errorf("%s %s", kind, data)
	}
	if _, err := io.ReadAll(e.from); err != nil {
		t.Errorf("the stream's end: %v", err)
	}
}
