// Package web is the page on which a cluster can be watched: its nodes, the containers on them,
// their actors, what moves and why. It shows and changes nothing, and is for loopback: there is no
// log-in.
package web

import (
	"context"
	"embed"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/peregrine-dev/peregrine/plasma/status"
)

// Watch calls each with the status as it is at once, and then whenever it has changed, until ctx
// ends or each gives an error; it returns that error. Calls don't overlap. Each only reads what it
// is given, also after it has returned. It is used by several goroutines.
type Watch func(ctx context.Context, each func(*status.Cluster) error) error

// MaxStreams bounds how many pages are kept up to date at a time. Others ask again later.
const MaxStreams = 16

//go:embed index.html style.css map.js panels.js script.js icon.svg
var content embed.FS

// policy is what a page of ours may do: load what comes from here, and nothing else. Text is
// never made into elements.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

// New makes the handler of the page: / with what belongs to it, /status.json, which is the status
// now, and /events, which sends it whenever it changes. Streams end with their requests' contexts.
func New(watch Watch) http.Handler {
	s := &server{watch: watch, streams: make(chan struct{}, MaxStreams)}
	files := http.FileServerFS(content)
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", files)
	for _, name := range []string{"style.css", "map.js", "panels.js", "script.js", "icon.svg"} {
		mux.Handle("GET /"+name, files)
	}
	mux.HandleFunc("GET /status.json", s.status)
	mux.HandleFunc("GET /events", s.events)
	return guard(mux)
}

// guard refuses what does not come from a browser's user who wants to see this page: names that
// someone else's domain lends to loopback, and data for other sites' pages.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		if !local(r.Host) {
			http.Error(w, "this page is for loopback only: open it as 127.0.0.1 or localhost", http.StatusForbidden)
			return
		}
		site := r.Header.Get("Sec-Fetch-Site")
		if r.URL.Path != "/" && site != "" && site != "same-origin" && site != "none" {
			http.Error(w, "this is for the page of plasmad only", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// local tells whether a Host header names loopback.
func local(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	return err == nil && ip.IsLoopback()
}
