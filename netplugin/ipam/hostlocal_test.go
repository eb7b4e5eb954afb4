package ipam

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// cniPlugins is the directory of the stock plugins.
func cniPlugins(t testing.TB) string {
	t.Helper()
	cache := os.Getenv("PEREGRINE_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(user, "peregrine")
	}
	dir := filepath.Join(cache, "debian/usr/lib/cni")
	if _, err := os.Stat(filepath.Join(dir, HostLocal)); err != nil {
		t.Fatalf("the stock plugins are missing, fetch them with integration/tools/build.sh: %v", err)
	}
	return dir
}

// step is one call. In its configuration $DIR is the data directory.
type step struct {
	command, id, ifname, args string
	config                    string
}

// outcome of a step, in a form to compare: a result of the configuration's version or
// an error's code and message.
type outcome struct {
	Result  string
	Code    uint
	Message string
}

func (s step) request(dir string) Request {
	if s.ifname == "" {
		s.ifname = "eth0"
	}
	return Request{ContainerID: s.id, IfName: s.ifname, NetNS: "/proc/1/ns/net", Args: s.args, Config: []byte(strings.ReplaceAll(s.config, "$DIR", dir))}
}

func (s step) ours(t *testing.T, dir string) outcome {
	t.Helper()
	return s.do(t, s.request(dir), dir)
}

// known is ours by one who knows which addresses the interface has.
func (s step) known(t *testing.T, dir string) outcome {
	t.Helper()
	r := s.request(dir)
	for name, of := range allocations(t, dir) {
		if of == owner(r.ContainerID, r.IfName) {
			r.Addresses = append(r.Addresses, netip.MustParseAddr(filepath.Base(name)))
		}
	}
	r.Fresh = len(r.Addresses) == 0
	return s.do(t, r, dir)
}

func (s step) do(t *testing.T, r Request, dir string) outcome {
	t.Helper()
	var err error
	switch s.command {
	case "ADD":
		var result *types100.Result
		if result, err = Add(t.Context(), r); err == nil {
			var c conf
			if c, err = decode(r.Config, true); err != nil {
				t.Fatal(err)
			}
			old, err := result.GetAsVersion(c.version)
			if err != nil {
				t.Fatal(err)
			}
			return outcome{Result: canonical(t, old)}
		}
	case "CHECK":
		err = Check(t.Context(), r)
	case "DEL":
		err = Del(t.Context(), r)
	}
	var e *types.Error
	if err != nil && !errors.As(err, &e) {
		t.Fatalf("not a CNI error: %v", err)
	}
	if e == nil {
		return outcome{}
	}
	return outcome{Code: e.Code, Message: strings.ReplaceAll(e.Msg, dir, "$DIR")}
}

func canonical(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	if dns, ok := m["dns"].(map[string]any); ok && len(dns) == 0 {
		delete(m, "dns") // old versions of the library write it
	}
	raw, _ = json.Marshal(m)
	return string(raw)
}

func (s step) stock(t *testing.T, binary, dir string) outcome {
	t.Helper()
	r := s.request(dir)
	c := exec.Command(binary)
	c.Stdin = bytes.NewReader(r.Config)
	c.Env = []string{"CNI_COMMAND=" + s.command, "CNI_CONTAINERID=" + r.ContainerID, "CNI_NETNS=" + r.NetNS, "CNI_IFNAME=" + r.IfName, "CNI_ARGS=" + r.Args, "CNI_PATH=" + filepath.Dir(binary)}
	out, err := c.Output()
	if err != nil {
		var e types.Error
		if json.Unmarshal(out, &e) != nil {
			t.Fatalf("the stock plugin failed: %v: %s", err, out)
		}
		return outcome{Code: e.Code, Message: strings.ReplaceAll(e.Msg, dir, "$DIR")}
	}
	if len(out) == 0 {
		return outcome{}
	}
	var m map[string]any
	if err := json.Unmarshal(out, &m); err != nil {
		t.Fatal(err)
	}
	return outcome{Result: canonical(t, m)}
}

// files reads what is below dir; others may add and remove files meanwhile.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil || e.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		rel, _ := filepath.Rel(dir, path)
		found[rel] = string(content) // modes differ between versions of the stock plugin
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func config(version, ipam, more string) string {
	return fmt.Sprintf(`{"name":"net","cniVersion":%q,"type":"falcon","ipam":{"type":"host-local","dataDir":"$DIR",%s}%s}`, version, ipam, more)
}

const (
	small = `"ranges":[[{"subnet":"10.1.0.0/29"}]]`
	dual  = `"ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"fd01::/64"}]],"routes":[{"dst":"0.0.0.0/0"},{"dst":"fd00::/8","gw":"fd01::9"}]`
)

func scenarios(t *testing.T) map[string][]step {
	t.Helper()
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("# a\n;b\n\nnameserver 10.0.0.53\nnameserver ::1\ndomain one\ndomain two\nsearch a b\nsearch c\noptions ndots:5\n options x\njunk\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	all := map[string][]step{}
	life := func(name, conf, args string) {
		all[name] = []step{
			{"ADD", "a", "", args, conf},
			{"CHECK", "a", "", args, conf},
			{"ADD", "a", "", args, conf}, // twice
			{"ADD", "a", "eth1", "", conf},
			{"CHECK", "b", "", "", conf},
			{"ADD", "b", "", "", conf},
			{"DEL", "a", "", args, conf},
			{"DEL", "a", "", args, conf},
			{"DEL", "unknown", "", "", conf},
			{"CHECK", "a", "", args, conf},
			{"ADD", "a", "", "", conf},
			{"DEL", "a", "eth1", "", conf},
			{"DEL", "b", "", "", conf},
		}
	}
	for _, v := range []string{"", "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"} {
		life("small "+v, config(v, small, ""), "")
		life("dual "+v, config(v, dual, ""), "")
	}
	const v = "1.0.0"
	life("old style", config(v, `"subnet":"10.1.0.0/24","rangeStart":"10.1.0.20","rangeEnd":"10.1.0.21","gateway":"10.1.0.20"`, ""), "")
	life("several ranges in a set", config(v, `"ranges":[[{"subnet":"10.1.0.0/30"},{"subnet":"10.2.0.0/30"}],[{"subnet":"10.3.0.0/29","rangeStart":"10.3.0.3"}]]`, ""), "")
	life("resolvConf", config(v, small+`,"resolvConf":"`+resolv+`"`, ""), "")
	life("no resolvConf", config(v, small+`,"resolvConf":"/nowhere"`, ""), "")
	life("IP by arguments", config(v, small, ""), "IP=10.1.0.5;IgnoreUnknown=1")
	life("IP by args.cni", config(v, dual, `,"args":{"cni":{"ips":["10.1.0.77","fd01::77"]}}`), "")
	life("IPs by runtimeConfig", config(v, dual, `,"runtimeConfig":{"ips":["10.1.0.78/24","fd01::78/64"]}`), "")
	life("ranges by runtimeConfig", config(v, small, `,"runtimeConfig":{"ipRanges":[[{"subnet":"10.9.0.0/24"}]]}`), "")
	life("IP that is the gateway", config(v, small, ""), "IP=10.1.0.1")
	life("IP of nowhere", config(v, dual, ""), "IP=10.7.7.7")
	life("IP that is none", config(v, small, ""), "IP=x")
	life("unknown argument", config(v, small, ""), "FOO=x")
	all["unknown version"] = []step{{"ADD", "a", "", "", config("9.9.9", small, "")}, {"DEL", "a", "", "", config("9.9.9", small, "")}}
	all["a version that is none"] = []step{{"ADD", "a", "", "", config("x", small, "")}, {"DEL", "a", "", "", config("x", small, "")}}
	life("no ranges", config(v, `"ranges":[]`, ""), "")
	life("an empty set", config(v, `"ranges":[[]]`, ""), "")
	life("both families in a set", config(v, `"ranges":[[{"subnet":"10.1.0.0/24"},{"subnet":"fd01::/64"}]]`, ""), "")
	life("overlap", config(v, `"ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"10.1.0.0/16"}]]`, ""), "")
	life("too small", config(v, `"ranges":[[{"subnet":"10.1.0.0/31"}]]`, ""), "")
	life("host bits", config(v, `"ranges":[[{"subnet":"10.1.0.7/24"}]]`, ""), "")
	life("start outside", config(v, `"ranges":[[{"subnet":"10.1.0.0/24","rangeStart":"10.2.0.1"}]]`, ""), "")
	life("no subnet", config(v, `"ranges":[[{"rangeStart":"10.2.0.1"}]]`, ""), "")
	life("no name", `{"cniVersion":"1.0.0","ipam":{"type":"host-local","dataDir":"$DIR",`+small+`}}`, "")
	life("a bad name", `{"name":"../x","cniVersion":"1.0.0","ipam":{"type":"host-local","dataDir":"$DIR",`+small+`}}`, "")
	life("not JSON", `{"name":`, "")
	life("default gateways only", config(v, `"ranges":[[{"subnet":"10.1.0.0/24","rangeStart":"10.1.0.1","rangeEnd":"10.1.0.1"}]]`, ""), "")

	full := config(v, small, "") // 5 addresses
	for i := range 7 {
		all["exhausted"] = append(all["exhausted"], step{"ADD", fmt.Sprint("c", i), "", "", full})
	}
	all["exhausted"] = append(all["exhausted"], step{"DEL", "c3", "", "", full}, step{"ADD", "d", "", "", full}, step{"ADD", "e", "", "", full})
	half := config(v, `"ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"10.2.0.0/30"}]]`, "")
	all["second set exhausted"] = []step{{"ADD", "a", "", "", half}, {"ADD", "b", "", "", half}, {"ADD", "c", "", "", half}, {"DEL", "a", "", "", half}, {"ADD", "c", "", "", half}}
	all["bad interface"] = []step{{"ADD", "a", "a/b", "", full}, {"DEL", "a", "too-long-a-name-it-is", "", full}}
	all["bad container"] = []step{{"ADD", "../a", "", "", full}, {"DEL", "a b", "", "", full}, {"CHECK", "-", "", "", full}}
	return all
}

// The stock plugin and ours say the same and leave the same files, and either goes on
// where the other was, whether what the caller knows is made use of or not. They differ in
// one thing: the stock plugin can't DEL where the configuration names no range.
func TestSameAsStock(t *testing.T) {
	binary := filepath.Join(cniPlugins(t), HostLocal)
	for name, steps := range scenarios(t) {
		t.Run(name, func(t *testing.T) {
			byStock := func(s step, dir string) outcome {
				o := s.stock(t, binary, dir)
				if s.command == "DEL" && o.Message == "no IP ranges specified" {
					return outcome{}
				}
				return o
			}
			ours := func(s step, dir string) outcome { return s.ours(t, dir) }
			known := func(s step, dir string) outcome { return s.known(t, dir) }
			stock := t.TempDir()
			others := []struct {
				name, dir  string
				even, odds func(step, string) outcome
			}{
				{"ours", t.TempDir(), ours, ours},
				{"known", t.TempDir(), known, known},
				{"ours and stock", t.TempDir(), ours, byStock},
				{"known and stock", t.TempDir(), known, byStock},
			}
			for i, s := range steps {
				want := byStock(s, stock)
				after := files(t, stock)
				for _, other := range others {
					run := other.even
					if i%2 == 1 {
						run = other.odds
					}
					if got := run(s, other.dir); got != want {
						t.Errorf("step %d, %s %s: %s %+v, stock %+v", i, s.command, s.id, other.name, got, want)
					}
					if got := files(t, other.dir); !maps.Equal(got, after) {
						t.Errorf("step %d, %s %s: files of %s: %q, stock %q", i, s.command, s.id, other.name, got, after)
					}
				}
			}
		})
	}
}
