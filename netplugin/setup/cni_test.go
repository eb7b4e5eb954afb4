package setup

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/peregrine-dev/peregrine/netplugin/config"
)

// TestList is read by CNI's own library.
func TestList(t *testing.T) {
	for name, c := range map[string]struct {
		portmap string
		version string
		plugins []string
	}{
		"no portmap":     {"", "1.1.0", []string{"falcon"}},
		"portmap of 1.1": {portmap(`"1.0.0","1.1.0"`), "1.1.0", []string{"falcon", "portmap"}},
		"portmap of 1.0": {portmap(`"0.4.0","1.0.0"`), "1.0.0", []string{"falcon", "portmap"}},
		"broken portmap": {"#!/bin/sh\nexit 1\n", "1.0.0", []string{"falcon", "portmap"}},
		"no program":     {"text", "1.1.0", []string{"falcon"}},
	} {
		t.Run(name, func(t *testing.T) {
			conf, bin := t.TempDir(), t.TempDir()
			if c.portmap != "" {
				put(t, bin, "portmap", c.portmap)
			}
			text, err := hostList(t.Context(), conf, bin, "blue")
			if err != nil {
				t.Fatal(err)
			}
			list, err := libcni.ConfListFromBytes(text)
			if err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			if !list.Plugins[0].Network.Capabilities[annotations] {
				t.Errorf("falcon is told of no annotations:\n%s", text)
			}
			var plugins []string
			for _, p := range list.Plugins {
				plugins = append(plugins, p.Network.Type)
				if p.Network.Type == "portmap" && !p.Network.Capabilities["portMappings"] {
					t.Errorf("portmap is told of no ports:\n%s", text)
				}
			}
			if list.Name != "blue" || list.CNIVersion != c.version || !slices.Equal(plugins, c.plugins) {
				t.Errorf("network %s in version %s of %q, want blue, %s, %q", list.Name, list.CNIVersion, plugins, c.version, c.plugins)
			}
		})
	}
}

// TestListOfAnotherDay is ours to remove though another would be written now.
func TestListOfAnotherDay(t *testing.T) {
	conf, bin := t.TempDir(), put(t, t.TempDir(), "portmap", portmap(`"1.1.0"`))
	// As versions before annotations wrote it, to the byte.
	old := []byte(`{
  "cniVersion": "1.0.0",
  "cniVersions": ["1.0.0", "1.1.0"],
  "name": "old",
  "plugins": [
    {
      "type": "falcon",
      "capabilities": {"ips": true, "mac": true}
    }
  ]
}
`)
	put(t, conf, listName, string(old))
	put(t, conf, "99-other.conf", `{"name": "other"}`)
	if text, err := hostList(t.Context(), conf, bin, "blue"); err != nil || !bytes.Equal(text, old) {
		t.Errorf("%v\n%s", err, text)
	}
	// So is a new one, of whatever plugins.
	for i := range 4 {
		text, err := chain{Name: "new", Portmap: i&1 != 0, GC: i&2 != 0, Annotations: true}.render()
		if err != nil {
			t.Fatal(err)
		}
		if ours, err := written(text); !ours || err != nil {
			t.Errorf("not ours: %v\n%s", err, text)
		}
	}
	// Once edited it isn't.
	edited := strings.Replace(string(old), "falcon", "falcon2", 1)
	put(t, conf, listName, edited)
	if text, err := hostList(t.Context(), conf, bin, "blue"); err != nil || len(text) == 0 || string(text) == edited {
		t.Errorf("%v\n%s", err, text)
	}
	put(t, conf, listName, "no JSON")
	if text, err := hostList(t.Context(), conf, bin, "blue"); err != nil || len(text) == 0 || string(text) == "no JSON" {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestWhoHasPods(t *testing.T) {
	for name, c := range map[string]struct {
		files         []string
		before, taken string
	}{
		"nobody":           {nil, "", ""},
		"ours":             {[]string{listName}, "", ""},
		"no configuration": {[]string{"README", "10-a.conf.bak"}, "", ""},
		"before":           {[]string{"05-a.conflist", "20-b.conf"}, "05-a.conflist", ""},
		"before ours":      {[]string{"10-a.json", listName}, "10-a.json", ""},
		"after":            {[]string{"10-flannel.conflist", "20-b.conf"}, "", "10-flannel.conflist"},
		"nerdctl's":        {[]string{"nerdctl-bridge.conflist"}, "", ""},
		"nerdctl's and":    {[]string{"nerdctl-bridge.conflist", "weave.conf"}, "", "weave.conf"},
	} {
		t.Run(name, func(t *testing.T) {
			conf := t.TempDir()
			for _, f := range c.files {
				put(t, conf, f, "{}")
			}
			if err := os.Mkdir(filepath.Join(conf, "00-dir.conf"), 0o700); err != nil {
				t.Fatal(err)
			}
			all, err := lists(conf)
			if err != nil {
				t.Fatal(err)
			}
			if before, taken := before(all), taken(all); before != c.before || taken != c.taken {
				t.Errorf("before %q, taken %q of %q", before, taken, all)
			}
			if slices.Contains(c.files, listName) {
				return
			}
			text, err := hostList(t.Context(), conf, t.TempDir(), "falcon")
			if err != nil || (text == nil) != (c.taken != "") {
				t.Errorf("would write, %v\n%s", err, text)
			}
		})
	}
}

func TestAdvise(t *testing.T) {
	const (
		alone   = "is by itself"
		noPorts = "can't be published"
		keeps   = "and keep it; to give them falcon"
		noClass = "give pods no class"
		sorts   = "10-a.conf, which sorts before"
		use     = "--network falcon"
	)
	all := []string{alone, noPorts, noClass, keeps, sorts, use}
	with := config.Default()
	with.Peers.File = "/etc/falcon/peers.toml"
	ours := func(portmap bool) string {
		text, err := chain{Name: "falcon", Portmap: portmap, GC: true, Annotations: true}.render()
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for name, c := range map[string]struct {
		cfg   config.Config
		files map[string]string
		want  []string
	}{
		"single node":  {config.Default(), map[string]string{listName: ours(true)}, []string{alone, use}},
		"all is well":  {with, map[string]string{listName: ours(true)}, []string{use}},
		"no portmap":   {with, map[string]string{listName: ours(false)}, []string{noPorts, use}},
		"earlier":      {with, map[string]string{listName: strings.Replace(ours(true), annotations, "x", 1)}, []string{noClass, use}},
		"another":      {with, map[string]string{"10-flannel.conflist": "{}"}, []string{keeps}},
		"sorts before": {with, map[string]string{"10-a.conf": "{}", listName: ours(true)}, []string{sorts, use}},
	} {
		t.Run(name, func(t *testing.T) {
			conf := t.TempDir()
			for f, text := range c.files {
				put(t, conf, f, text)
			}
			var out strings.Builder
			if err := advise(t.Context(), &out, c.cfg, conf, t.TempDir()); err != nil {
				t.Fatal(err)
			}
			for _, text := range all {
				if strings.Contains(out.String(), text) != slices.Contains(c.want, text) {
					t.Errorf("%q is out of place in\n%s", text, &out)
				}
			}
		})
	}
	if err := Advise(t.Context(), &strings.Builder{}); err != nil {
		t.Errorf("on this host: %v", err)
	}
}
