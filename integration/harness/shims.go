package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/peregrine-dev/peregrine/integration/noopshim"
)

// Shim is what a containerd needs to run a runtime that is not its own.
type Shim struct {
	Bin string   // directory of containerd-shim-NAME-v1; empty if none is needed
	Env []string // of containerd, which hands it on
}

// Crun finds the stock parts' crun, for the runtime option BinaryName, and what makes it
// find a library that the host may lack.
func Crun(cache string) (file string, shim Shim, err error) {
	dir := filepath.Join(cache, "debian")
	if file, err = lookPath("crun", filepath.Join(dir, "usr/bin")); err != nil {
		return "", Shim{}, err
	}
	libraries, err := filepath.Glob(filepath.Join(dir, "usr/lib/*/libyajl.so.2"))
	if err != nil {
		return "", Shim{}, err
	}
	for _, library := range libraries {
		shim.Env = append(shim.Env, "LD_LIBRARY_PATH="+filepath.Dir(library))
	}
	return file, shim, nil
}

// NoopShim is a running noopshimd, for the runtime io.containerd.noop.v1.
type NoopShim struct {
	*Process

	bin, socket string
}

// StartNoopShim runs bin/noopshimd with everything of it in dir.
func StartNoopShim(ctx context.Context, bin, dir string) (*NoopShim, error) {
	n := &NoopShim{bin: bin, socket: filepath.Join(dir, "noop.sock")}
	var err error
	n.Process, err = start(filepath.Join(dir, "noop.log"), os.Getenv("PATH"), nil, filepath.Join(bin, "noopshimd"), n.socket)
	if err != nil {
		return nil, err
	}
	err = n.ready(ctx, func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", n.socket)
		if err != nil {
			return fmt.Errorf("dial noopshimd: %w", err)
		}
		return conn.Close()
	})
	if err != nil {
		return nil, errors.Join(err, n.Kill())
	}
	return n, nil
}

// Shim is for StartContainerd.
func (n *NoopShim) Shim() Shim {
	return Shim{Bin: n.bin, Env: []string{noopshim.AddressVariable + "=" + n.socket}}
}
