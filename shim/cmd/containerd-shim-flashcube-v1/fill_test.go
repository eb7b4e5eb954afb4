package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/peregrine-dev/peregrine/shim/claim"
)

// fill makes ready parts that all have the same listener.
func fill(b testing.TB, dir string) {
	b.Helper()
	path := filepath.Join(dir, claim.Socket)
	l, err := net.Listen("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	b.Cleanup(func() { l.Close(); <-done })
	for i := range 16 {
		part := filepath.Join(dir, claim.Ready, fmt.Sprintf("p%06d", i))
		if err := os.Mkdir(part, 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.Link(path, filepath.Join(part, claim.Socket)); err != nil {
			b.Fatal(err)
		}
	}
}
