package config

import (
	"bytes"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range list {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

// blue is a network of a file.
const blue = "[[network]]\nname = 'blue'\nvni = 7\nsubnets = ['10.1.2.0/24']\ncluster = ['10.1.0.0/16']\n"

func TestGoodFiles(t *testing.T) {
	network := Network{Name: "blue", VNI: 7, Subnets: prefixes("10.1.2.0/24"), Cluster: prefixes("10.1.0.0/16")}
	for name, c := range map[string]struct {
		text string
		want func(*Config)
	}{
		"empty":       {"", func(*Config) {}},
		"node":        {"node = 'a-1.example'\naddress = '10.0.0.1'\nport = 8472", func(c *Config) { c.Node, c.Address, c.Port = "a-1.example", netip.MustParseAddr("10.0.0.1"), 8472 }},
		"found":       {"node = ''\naddress = ''", func(*Config) {}},
		"IPv6":        {"address = '2001:db8::1'", func(c *Config) { c.Address = netip.MustParseAddr("2001:db8::1") }},
		"others":      {"log_level = 'warn'\nmetrics.address = '[::1]:9502'\ndebug.address = '/run/d'", func(c *Config) { c.LogLevel, c.Metrics.Address, c.Debug.Address = "warn", "[::1]:9502", "/run/d" }},
		"peers' file": {"[peers]\nfile = '/etc/falcon/peers.toml'", func(c *Config) { c.Peers.File = "/etc/falcon/peers.toml" }},
		"etcd":        {"[peers.etcd]\nendpoints = ['http://[::1]:2379/', 'http://e']", func(c *Config) { c.Peers.Etcd.Endpoints = []string{"http://[::1]:2379/", "http://e"} }},
		"etcd by TLS": {"peers.etcd = {endpoints = ['https://e'], ca = '/a', cert = '/b', key = '/c', prefix = '/x/y'}", func(c *Config) {
			c.Peers.Etcd = Etcd{Endpoints: []string{"https://e"}, Prefix: "/x/y", CA: "/a", Cert: "/b", Key: "/c"}
		}},
		"one network": {blue, func(c *Config) { c.Networks = []Network{network} }}, // which has nothing of the default's
		"inline":      {"network = [{name = 'blue', vni = 7, subnets = ['10.1.2.0/24'], cluster = ['10.1.0.0/16']}]", func(c *Config) { c.Networks = []Network{network} }},
		"both, shared": {"[[network]]\nname = 'b'\nvni = 16777215\nsubnets = ['10.1.2.0/30', 'fd00::/126']\ncluster = ['fd00::/48', '10.0.0.0/8']\nmasquerade = true\nmtu = 1280\noffers = 8\n" + strings.NewReplacer("10.1.2.0/24", "10.1.2.4/30", "10.1.0.0/16", "0.0.0.0/0").Replace(blue), func(c *Config) {
			c.Networks = []Network{
				{"b", 16777215, prefixes("10.1.2.0/30", "fd00::/126"), prefixes("fd00::/48", "10.0.0.0/8"), true, 1280, 8},
				{Name: "blue", VNI: 7, Subnets: prefixes("10.1.2.4/30"), Cluster: prefixes("0.0.0.0/0")},
			}
		}},
		"many subnets": {strings.Replace(blue, "['10.1.2.0/24']", "['10.1.2.0/24', '10.1.3.0/24']", 1), func(c *Config) {
			c.Networks = []Network{{Name: "blue", VNI: 7, Subnets: prefixes("10.1.2.0/24", "10.1.3.0/24"), Cluster: network.Cluster}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Load(write(t, c.text), true)
			if err != nil {
				t.Fatal(err)
			}
			want := Default()
			if c.want(&want); !reflect.DeepEqual(got, want) {
				t.Errorf("read\n%+v, want\n%+v", got, want)
			}
			roundTrip(t, got)
		})
	}
}

func TestBadFiles(t *testing.T) {
	const (
		top     = "want one of node, address, port, log_level, peers, shortcut, priority, pipeline, metrics, debug, network"
		network = "want one of name, vni, subnets, cluster, masquerade, mtu, offers"
	)
	red := strings.NewReplacer("blue", "red", "vni = 7", "vni = 8", ".1.2.", ".1.3.").Replace(blue)
	with := func(old, text string) string { return strings.Replace(blue, old, text, 1) }
	for name, c := range map[string]struct{ text, at, says string }{
		"unknown key":             {"\n nod = 'a'", "2:2", `"nod", ` + top},
		"unknown in peers":        {"[peers]\nurl = 1", "2:1", `"peers.url", want one of file, etcd`},
		"unknown in etcd":         {"peers.etcd = {tls = 1}", "1:15", `"peers.etcd.tls", want one of endpoints, prefix, ca, cert, key, username, password_file`},
		"unknown in network":      {blue + "subnet = 1", "6:1", `"network.subnet", ` + network},
		"unknown in the second":   {blue + red + "x = 1", "11:1", `"network.x", ` + network},
		"unknown in a list":       {"network = [{name = 'a', vmi = 1}]", "1:25", `"network.vmi", ` + network},
		"table in network":        {blue + "[network.ipam]\nx = 1", "6:2", `"network.ipam", ` + network},
		"no TOML":                 {"node", "1:4", "'='"},
		"node":                    {"node = 'a/b'", "1:1", "no name"},
		"no address":              {"port = 1\naddress = 'eth0'", "2:11", "unable to parse IP"},
		"a number":                {"port = 1\naddress = 3", "2:1", "unable to parse IP"},
		"address everywhere":      {"address = '0.0.0.0'", "1:1", "no address that other nodes can reach"},
		"address here":            {"address = '127.0.0.1'", "1:1", "no address that other nodes can reach"},
		"address of a link":       {"address = 'fe80::1%eth0'", "1:1", "no address that other nodes can reach"},
		"address of a zone":       {"address = 'fd00::1%eth0'", "1:1", "without a zone"},
		"mapped address":          {"address = '::ffff:10.0.0.1'", "1:1", "no address that other nodes can reach"},
		"port 0":                  {"port = 0", "1:1", "want 1 to 65535"},
		"port too high":           {"port = 65536", "1:1", "want 1 to 65535"},
		"log level":               {"log_level = 'loud'", "1:1", "want one of trace"},
		"metrics":                 {"metrics.address = 'localhost'", "1:1", "host:port"},
		"debug":                   {"[debug]\naddress = 'localhost:1'", "2:1", "absolute path"},
		"relative file":           {"[peers]\nfile = 'peers.toml'", "2:1", "no absolute path"},
		"file and etcd":           {"[peers]\nfile = '/p'\n[peers.etcd]\nendpoints = ['http://e']", "2:1", "a file or from etcd"},
		"cert alone":              {"[peers.etcd]\ncert = '/p'", "1:2", "both or none"},
		"relative cert":           {"[peers.etcd]\ncert = 'p'\nkey = '/k'", "2:1", "no absolute path"},
		"prefix":                  {"[peers.etcd]\nprefix = '/'", "2:1", "begins no keys"},
		"no URL":                  {"[peers.etcd]\nendpoints = ['http://e', 'e:2379']", "2:1", `"e:2379" is no URL`},
		"path":                    {"[peers.etcd]\nendpoints = ['http://e/v3']", "2:1", `is no URL`},
		"password alone":          {"[peers.etcd]\npassword_file = '/p'", "1:2", "both or none"},
		"relative password":       {"[peers.etcd]\npassword_file = 'p'\nusername = 'u'", "2:1", "no absolute path"},
		"TLS and none":            {"[peers.etcd]\nendpoints = ['https://e', 'http://e']", "2:1", "for all or for none"},
		"no TLS":                  {"[peers.etcd]\nca = '/a'\nendpoints = ['http://e']", "3:1", "want https"},
		"no network":              {"port = 1\nnetwork = []", "2:1", "there is none"},
		"no name":                 {with("'blue'", "''"), "2:1", "no name"},
		"name of a path":          {with("'blue'", "'../blue'"), "2:1", "no name"},
		"no VNI":                  {with("vni = 7", ""), "1:3", "0 is no VNI, want 1 to 16777215"},
		"VNI too high":            {with("vni = 7", "vni = 16777216"), "3:1", "want 1 to 16777215"},
		"VNI negative":            {with("vni = 7", "vni = -1"), "3:7", "uint32"},
		"no subnets":              {with("['10.1.2.0/24']", "[]"), "4:1", "no other node has"},
		"no prefix":               {with("10.1.2.0/24", "10.1.2.0"), "4:12", "no '/'"},
		"a prefix is no string":   {with("'10.1.2.0/24'", "'10.1.2.0/24', true"), "4:1", "no '/'"},
		"too long":                {with("10.1.2.0/24", "10.1.2.0/33"), "4:12", "out of range"},
		"empty prefix":            {with("10.1.2.0/24", ""), "4:1", "an empty prefix"},
		"host bits":               {with("10.1.2.0/24", "10.1.2.1/24"), "4:1", "want 10.1.2.0/24"},
		"host bits of cluster":    {with("10.1.0.0/16", "10.1.1.0/16"), "5:1", "want 10.1.0.0/16"},
		"mapped prefix":           {with("10.1.2.0/24", "::ffff:10.1.2.0/120"), "4:1", "written as IPv6"},
		"too small":               {with("10.1.2.0/24", "10.1.2.0/31"), "4:1", "want at most /30"},
		"too small, IPv6":         {with("10.1.2.0/24", "fd00::/127"), "4:1", "want at most /126"},
		"loopback":                {with("10.1.2.0/24", "127.0.0.0/24"), "4:1", "no addresses for containers"},
		"multicast":               {with("10.1.2.0/24", "ff02::/64"), "4:1", "no addresses for containers"},
		"everything":              {with("10.1.2.0/24", "0.0.0.0/0"), "4:1", "no addresses for containers"},
		"twice":                   {with("['10.1.2.0/24']", "['10.1.2.0/24', '10.1.2.128/25']"), "4:1", "10.1.2.128/25 overlaps 10.1.2.0/24"},
		"out of the cluster":      {with("10.1.0.0/16", "10.2.0.0/16"), "5:1", "10.1.2.0/24 is not in it"},
		"larger than the cluster": {with("10.1.0.0/16", "10.1.2.0/25"), "5:1", "10.1.2.0/24 is not in it"},
		"no cluster":              {with("cluster = ['10.1.0.0/16']", ""), "1:3", "10.1.2.0/24 is not in it"},
		"MTU":                     {blue + "mtu = 100", "6:1", "want 576 to 65465"},
		"MTU of IPv6":             {strings.ReplaceAll(strings.ReplaceAll(blue, "10.1.2.0/24", "fd00::/64"), "10.1.0.0/16", "fd00::/48") + "mtu = 1279", "6:1", "want 1280 to 65465"},
		"offers":                  {blue + "offers = -1", "6:1", "want 0 to 1024"},
		"own address":             {"address = '10.1.2.9'\n" + blue, "5:1", "this node's address 10.1.2.9"},
		"same name":               {blue + strings.Replace(red, "red", "blue", 1), "7:1", `"blue" is the name of two`},
		"same VNI":                {blue + strings.Replace(red, "8", "7", 1), "8:1", "7 is the VNI of blue and of red"},
		"shared subnet":           {blue + strings.Replace(red, "10.1.3.0/24", "10.1.2.64/26", 1), "9:1", "10.1.2.64/26 overlaps 10.1.2.0/24 of network blue"},
		"in a list":               {"network = [\n{name = 'a', vni = 1, subnets = ['10.0.0.0/24'], cluster = ['10.0.0.0/8']},\n{name = 'b', vni = 0}]", "3:14", "0 is no VNI"},
		"not in a list":           {"network = [\n{name = 'a'}]", "1:1", "0 is no VNI"},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, c.text)
			_, err := Load(path, true)
			if !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), path+":"+c.at+": ") || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("got %v, want it to begin with %s:%s and to say %q", err, path, c.at, c.says)
			}
			if n := strings.Count(err.Error(), errdefs.ErrInvalidArgument.Error()); n != 1 {
				t.Errorf("%q names its class %d times", err, n)
			}
		})
	}
}

func TestMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.toml")
	if got, err := Load(path, false); err != nil || !reflect.DeepEqual(got, Default()) {
		t.Errorf("not required: %+v, %v; want the defaults", got, err)
	}
	if _, err := Load(path, true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("required: %v, want ErrNotExist", err)
	}
}

func TestDefaultsReadBack(t *testing.T) {
	c := Default()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, c)
}

func TestValidateNamesTheKey(t *testing.T) {
	c := Default()
	c.Networks[0].VNI = 0 // a flag could have set it: there is no line to name
	if err := c.Validate(); !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), "network[0].vni: ") {
		t.Errorf("got %v", err)
	}
}

// TestDefaultIsNobodyElses can be altered without altering the next.
func TestDefaultIsNobodyElses(t *testing.T) {
	a, b := Default(), Default()
	a.Networks[0].Name, a.Networks[0].Subnets[0] = "x", netip.Prefix{}
	if !reflect.DeepEqual(b, Default()) {
		t.Errorf("%+v", b)
	}
}

// roundTrip writes c and reads it back over nothing.
func roundTrip(t *testing.T, c Config) {
	t.Helper()
	text, err := c.Write()
	if err != nil {
		t.Fatal(err)
	}
	var back Config
	if err := back.parse(text); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	// Of no endpoints there are two kinds.
	if len(c.Peers.Etcd.Endpoints)+len(back.Peers.Etcd.Endpoints) == 0 {
		c.Peers.Etcd.Endpoints, back.Peers.Etcd.Endpoints = nil, nil
	}
	if again, err := back.Write(); err != nil || !bytes.Equal(again, text) || !reflect.DeepEqual(back, c) {
		t.Errorf("wrote %+v\nread  %+v, %v\n%s", c, back, err, text)
	}
}

func FuzzLoad(f *testing.F) {
	text, err := Default().Write()
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		string(text), blue, blue + blue, "network = [{name = 'a', x = 1}]", "[[network]]\nsubnets = [true]", "[network]\nname = 'a'",
		"[[network]]\n[network.x]", "a.b.c = [1, {d = 2}]", "[[x]]", "address = 3", "peers.etcd.endpoints = ['https://e']", "[[network.subnets]]",
	} {
		f.Add(seed)
	}
	path := filepath.Join(f.TempDir(), "config.toml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(path, true)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%v is not ErrInvalidArgument", err)
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Errorf("accepted, but %v", err)
		}
		roundTrip(t, c)
	})
}
