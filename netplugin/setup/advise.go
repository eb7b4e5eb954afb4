package setup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/peregrine-dev/peregrine/netplugin/config"
)

// Advise tells what is left to do after the files are installed. Nothing has to be
// restarted: runtimes see a new network by themselves.
func Advise(ctx context.Context, out io.Writer) error {
	cfg, err := config.Load(config.DefaultPath, false)
	if err != nil {
		return err
	}
	return advise(ctx, out, cfg, cniConf, cniBin)
}

func advise(ctx context.Context, out io.Writer, cfg config.Config, conf, bin string) error {
	if cfg.Peers.File == "" && len(cfg.Peers.Etcd.Endpoints) == 0 {
		fmt.Fprintf(out, "note: this node is by itself; for more nodes set peers in %s on each, and subnets that no other has, and restart falcond\n", config.DefaultPath)
	}
	network := cfg.Networks[0].Name
	all, err := lists(conf)
	if err != nil {
		return err
	}
	ours, err := os.ReadFile(filepath.Join(conf, listName))
	switch other := taken(all); {
	case err == nil:
		network = networkOf(ours)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case other != "":
		list, err := fitting(ctx, bin, network).render()
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "note: pods have the network of %s and keep it; to give them %s, or to use it by name, put this into %s (or a name that sorts after):\n%s",
			filepath.Join(conf, other), network, filepath.Join(conf, listName), indent(list))
		return nil
	}
	if first := before(all); first != "" {
		fmt.Fprintf(out, "note: pods have the network of %s, which sorts before %s; to give them %s, rename one\n", filepath.Join(conf, first), listName, network)
	}
	if !strings.Contains(string(ours), `"portmap"`) {
		fmt.Fprintf(out, "note: ports of containers can't be published; put the CNI plugin portmap into %s, remove %s and install again\n", bin, filepath.Join(conf, listName))
	}
	if len(ours) > 0 && !strings.Contains(string(ours), annotations) {
		fmt.Fprintf(out, "note: annotations give pods no class of packets; put %q: true into the capabilities of falcon in %s, or remove the file and install again\n", annotations, filepath.Join(conf, listName))
	}
	fmt.Fprintf(out, "use the network by nerdctl run --network %s or ctr run --cni; pods have the first in %s\n", network, conf)
	return nil
}

func indent(text []byte) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(string(text), "\n"), "\n", "\n  ") + "\n"
}
