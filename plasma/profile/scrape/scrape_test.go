package scrape

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const page = `# HELP requests_total how many
# TYPE requests_total counter
requests_total{code="200"} 7
requests_total{code="500"} 3
# TYPE inflight gauge
inflight 4
inflight{x="y"} NaN
plain 1.5 1395066363000
# TYPE took histogram
took_bucket{le="1"} 50
took_bucket{le="2"} 90
took_bucket{le="+Inf"} 100
took_sum 120
took_count 100
# TYPE wait summary
wait{quantile="0.5",a="1"} 2
wait{quantile="0.5",a="2"} 5
wait{quantile="0.999",a="1"} 9
wait_sum{a="1"} 10
wait_count{a="1"} 4
wait_sum{a="2"} 1
wait_count{a="2"} 1
`

var want = map[string]float64{
	"requests_total": 10, "inflight": 4, "plain": 1.5,
	"took_count": 100, "took_sum": 120, "took_p50": 1, "took_p95": 2, "took_p99": 2,
	"wait_count": 5, "wait_sum": 11, "wait_p50": 5, "wait_p99_9": 9,
}

func TestParse(t *testing.T) {
	got, err := Parse(strings.NewReader(page))
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	var many strings.Builder
	for i := range MaxValues + 1 {
		fmt.Fprintf(&many, "a%d 1\n", i)
	}
	for _, bad := range []string{"a b c\n", "<html>", many.String()} {
		if _, err := Parse(strings.NewReader(bad)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%.10q: %v", bad, err)
		}
	}
}

func TestQuantile(t *testing.T) {
	inf := math.Inf(1)
	for _, test := range []struct {
		buckets map[float64]float64
		want    float64
		ok      bool
	}{
		{map[float64]float64{10: 100, inf: 100}, 5, true},
		{map[float64]float64{10: 25, 20: 75, inf: 100}, 15, true},
		{map[float64]float64{10: 0, inf: 100}, 10, true},
		{map[float64]float64{10: 0, inf: 0}, 0, false},
		{map[float64]float64{10: 5}, 0, false},
		{map[float64]float64{-10: 50, inf: 50}, -10, true},
		{nil, 0, false},
	} {
		if got, ok := quantile(.5, test.buckets); got != test.want || ok != test.ok {
			t.Errorf("%v: %v, %v, want %v, %v", test.buckets, got, ok, test.want, test.ok)
		}
	}
}

func TestParseSource(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1:9100/metrics": "127.0.0.1:9100/metrics", ":1/a/b?c=d": "127.0.0.1:1/a/b?c=d",
		"localhost:80": "127.0.0.1:80/metrics", "[::1]:7/": "[::1]:7/",
	} {
		s, err := ParseSource(text)
		if err != nil || s.Address.String()+s.Path != want {
			t.Errorf("%q: %v, %v, want %s", text, s, err, want)
		}
	}
	for _, text := range []string{"", "x", "example.org:80/", "1.2.3.4:0/", "1.2.3.4/metrics", "1.2.3.4:99999/", "1.2.3.4:1/a b", "1.2.3.4:1/\x00"} {
		if s, err := ParseSource(text); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v, %v", text, s, err)
		}
	}
}

func source(t testing.TB, url, path string) Source {
	t.Helper()
	s, err := ParseSource(strings.TrimPrefix(url, "http://") + path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestGet(t *testing.T) {
	began, done := make(chan struct{}), make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, page) })
	mux.HandleFunc("/long", func(w http.ResponseWriter, _ *http.Request) {
		line := strings.Repeat("# a comment\n", 1000)
		for n := 0; n <= MaxBytes; n += len(line) {
			if _, err := io.WriteString(w, line); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "a 1\n")
		_ = http.NewResponseController(w).Flush()
		close(began)
		<-done
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	defer close(done)
	got, err := Get(t.Context(), nil, source(t, server.URL, "/metrics"))
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	if _, err := Get(t.Context(), nil, source(t, server.URL, "/long")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a long answer: %v", err)
	}
	if _, err := Get(t.Context(), nil, source(t, server.URL, "/none")); !errdefs.IsUnavailable(err) {
		t.Errorf("no page: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-began; cancel() }()
	if _, err := Get(ctx, nil, source(t, server.URL, "/slow")); !errdefs.IsUnavailable(err) {
		t.Errorf("a slow answer: %v", err)
	}
	if _, err := Get(t.Context(), nil, Source{netip.MustParseAddrPort("127.0.0.1:1"), "/"}); !errdefs.IsUnavailable(err) {
		t.Errorf("nobody listens: %v", err)
	}
}

// TestInside asks in a namespace, where what listens is unknown to the host.
func TestInside(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	ns := netnstest.New(t)
	var listener net.Listener
	ns.Do(func() {
		var err error
		if listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	})
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, page) }),
		ReadHeaderTimeout: time.Minute,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	defer func() {
		_ = server.Close()
		<-ended
	}()
	s := source(t, listener.Addr().String(), "/metrics")
	got, err := Get(t.Context(), ns.File(), s)
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	if _, err := Get(t.Context(), nil, s); !errdefs.IsUnavailable(err) {
		t.Errorf("outside: %v", err)
	}
}

func BenchmarkGet(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, page) }))
	defer server.Close()
	s := source(b, server.URL, "/metrics")
	for b.Loop() {
		if _, err := Get(b.Context(), nil, s); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(page)
	f.Add("a{b=\"c\"} +Inf\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := Parse(strings.NewReader(text))
		if err != nil {
			return
		}
		for name, v := range all {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				t.Errorf("%s is %v", name, v)
			}
		}
	})
}
