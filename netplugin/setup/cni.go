package setup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"golang.org/x/sys/unix"

	hostfiles "github.com/peregrine-dev/peregrine/config"
)

// Where runtimes look by default; listName is what is ours there.
const (
	cniConf  = "/etc/cni/net.d"
	cniBin   = "/opt/cni/bin"
	listName = "10-falcon.conflist"

	// annotations is the capability of CRI by which plugins get those of pods.
	annotations = "io.kubernetes.cri.pod-annotations"

	// debianBin is where Debian's containernetworking-plugins are.
	debianBin = "/usr/lib/cni"

	// patience is for programs that answer at once or not at all.
	patience = 5 * time.Second
)

// chain is what is in the configuration list of a network.
type chain struct {
	Name    string // the network's
	Portmap bool   // publishes ports
	// GC lets runtimes that know CNI 1.1 use it, for GC and STATUS. Every plugin of the
	// list must know it, too.
	GC bool
	// Annotations has runtimes give those of pods, in which the class of a pod may be.
	Annotations bool
}

func (c chain) render() ([]byte, error) {
	return hostfiles.Render(filepath.Join(cniConf, listName), c)
}

// hostList is the list for a network, as it fits the plugins in bin; nil where it would
// take pods away from another network, see [taken].
func hostList(ctx context.Context, conf, bin, network string) ([]byte, error) {
	now, err := os.ReadFile(filepath.Join(conf, listName))
	switch {
	case err == nil:
		// It was made for the plugins there were at that time, and for another name.
		if ours, err := written(now); ours || err != nil {
			return now, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("see what is in %s: %w", conf, err)
	default:
		lists, err := lists(conf)
		if err != nil {
			return nil, err
		}
		if taken(lists) != "" {
			return nil, nil
		}
	}
	return fitting(ctx, bin, network).render()
}

// fitting is the chain for the plugins that are in bin.
func fitting(ctx context.Context, bin, network string) chain {
	c := chain{Name: network, GC: true, Annotations: true}
	portmap := filepath.Join(bin, "portmap")
	if executable(portmap) != nil {
		return c
	}
	c.Portmap = true
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	versions, err := invoke.GetVersionInfo(ctx, portmap, nil)
	c.GC = err == nil && slices.Contains(versions.SupportedVersions(), "1.1.0")
	return c
}

// written tells whether a list is one that installing wrote, on this host or before it
// changed.
func written(list []byte) (bool, error) {
	c := chain{Name: networkOf(list)}
	for i := range 8 {
		c.Portmap, c.GC = i&1 != 0, i&2 != 0
		c.Annotations = i&4 != 0 // earlier versions didn't have them
		text, err := c.render()
		if err != nil || bytes.Equal(text, list) {
			return err == nil, err
		}
	}
	return false, nil
}

// networkOf is the name that a CNI configuration gives its network; empty if it has none.
func networkOf(text []byte) string {
	var c struct {
		Name string `json:"name"`
	}
	if json.Unmarshal(text, &c) != nil {
		return ""
	}
	return c.Name
}

// lists names the files of CNI configurations in a directory in the order in which runtimes
// take them: by name, and the first for pods.
func lists(conf string) ([]string, error) {
	entries, err := os.ReadDir(conf) // sorted
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the networks of CNI: %w", err)
	}
	var names []string
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".conf", ".conflist", ".json":
			if !e.IsDir() {
				names = append(names, e.Name())
			}
		}
	}
	return names, nil
}

// before is the first of the lists if it isn't ours: pods have it. Empty if they have ours,
// or would.
func before(lists []string) string {
	if len(lists) > 0 && lists[0] < listName {
		return lists[0]
	}
	return ""
}

// taken is the list that pods have now and would no longer have with ours; empty if there is
// none. nerdctl's networks are taken by name and are in nobody's way.
func taken(lists []string) string {
	if before(lists) != "" {
		return ""
	}
	for _, name := range lists {
		if name != listName && !strings.HasPrefix(name, "nerdctl-") {
			return name
		}
	}
	return ""
}

// executable is nil if path is a program.
func executable(path string) error {
	fi, err := os.Stat(path)
	if err == nil && !fi.Mode().IsRegular() {
		err = &os.PathError{Op: "execute", Path: path, Err: unix.EACCES}
	}
	if err == nil {
		err = os.NewSyscallError("execute "+path, unix.Access(path, unix.X_OK))
	}
	return err
}
