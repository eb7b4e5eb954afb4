package setup

import (
	"context"
	"fmt"
	"io"

	"github.com/peregrine-dev/peregrine/plasma/config"
)

// Advise tells what is left to do after the files are installed.
func Advise(_ context.Context, out io.Writer) error {
	cfg, err := config.Load(config.DefaultPath, false)
	if err != nil {
		return err
	}
	return advise(out, cfg)
}

func advise(out io.Writer, cfg config.Config) error {
	if cfg.Address == "" {
		fmt.Fprintf(out, "note: plasmad is a cluster by itself; for more nodes set address, [tls] and [member] or [etcd] in %s on each, and restart plasmad\n", config.DefaultPath)
	}
	_, err := fmt.Fprintln(out, "start a service by plasmactl apply SERVICE.toml")
	return err
}
