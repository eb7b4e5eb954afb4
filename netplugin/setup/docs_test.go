package setup

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/netconf"
	peernodes "github.com/peregrine-dev/peregrine/netplugin/peers"
)

// block is a fenced block of Markdown with its language.
var block = regexp.MustCompile("(?s)```([a-z]+)\n(.*?)```\n")

// TestDocs has every example of a configuration in the documentation read by what will
// read it.
func TestDocs(t *testing.T) {
	for file, want := range map[string]map[string]int{
		"network.md":       {"config": 2, "nodes": 1, "list": 1},
		"configuration.md": {"config": 1},
	} {
		t.Run(file, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("../../docs", file))
			if err != nil {
				t.Fatal(err)
			}
			found := map[string]int{}
			for _, b := range block.FindAllStringSubmatch(string(text), -1) {
				switch language, example := b[1], b[2]; {
				case language == "toml" && strings.Contains(example, "[[node]]"):
					found["nodes"]++
					readNodes(t, example)
				case language == "toml":
					found["config"]++
					readConfig(t, example)
				case language == "json":
					found["list"]++
					readList(t, example)
				default:
					t.Errorf("nobody reads a block of %s:\n%s", language, example)
				}
			}
			for kind, n := range want {
				if found[kind] < n {
					t.Errorf("found %v, want at least %v", found, want)
				}
			}
		})
	}
}

func readConfig(t *testing.T, text string) {
	t.Helper()
	path := filepath.Join(put(t, t.TempDir(), "config.toml", text), "config.toml")
	if _, err := config.Load(path, true); err != nil {
		t.Errorf("%v in\n%s", err, text)
	}
}

// readNodes reads a file of nodes as the node that it doesn't have.
func readNodes(t *testing.T, text string) {
	t.Helper()
	source := peernodes.File(filepath.Join(put(t, t.TempDir(), "peers.toml", text), "peers.toml"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	self := peernodes.Node{Name: "another", Address: netip.MustParseAddr("192.0.2.99")}
	var nodes []peernodes.Node
	if err := source.Run(ctx, self, func(all []peernodes.Node) { nodes = all; cancel() }); err != nil {
		t.Fatal(err)
	}
	status := source.(peernodes.Reporter).Status()
	if len(nodes) != strings.Count(text, "[[node]]") || status.Err != nil || len(status.Rejected) > 0 {
		t.Errorf("read %v, %+v of\n%s", nodes, status, text)
	}
}

// readList reads a list as runtimes do, and what falcon gets of it as falcon does.
func readList(t *testing.T, text string) {
	t.Helper()
	list, err := libcni.ConfListFromBytes([]byte(text))
	if err != nil {
		t.Errorf("%v in\n%s", err, text)
		return
	}
	if list.Plugins[0].Network.Type != Name {
		t.Errorf("%s is not the first plugin of\n%s", Name, text)
	}
	var conf map[string]any
	if err := json.Unmarshal(list.Plugins[0].Bytes, &conf); err != nil {
		t.Fatal(err)
	}
	conf["name"], conf["cniVersion"] = list.Name, list.CNIVersion
	injected, err := json.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := netconf.Parse(injected); err != nil {
		t.Errorf("%v in\n%s", err, text)
	}
}
