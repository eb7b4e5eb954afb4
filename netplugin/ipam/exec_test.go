package ipam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// plugin writes an executable IPAM plugin and returns a request that names it.
func plugin(t *testing.T, version, script string) Request {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "fake"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return pluginRequest(version, dir)
}

func pluginRequest(version, dir string) Request {
	return Request{
		ContainerID: "a", IfName: "eth0", NetNS: "/run/netns/a", Args: "K=V;IgnoreUnknown=1", Path: []string{"/nowhere", dir},
		Config: fmt.Appendf(nil, `{"name":"net","cniVersion":%q,"ipam":{"type":"fake"}}`, version),
	}
}

func TestExec(t *testing.T) {
	dir := t.TempDir()
	record := `env | grep ^CNI_ | sort > ` + dir + `/env; cat > ` + dir + `/stdin; echo noise >&2; [ $CNI_COMMAND = ADD ] && echo '{"ips":[{"version":"4","address":"10.0.0.5/24","gateway":"10.0.0.1"}]}'; exit 0`
	r := plugin(t, "0.4.0", record)
	t.Setenv("CNI_COMMAND", "DEL") // the agent's own environment says nothing
	result, err := Add(t.Context(), r)
	if err != nil || result.CNIVersion != types100.ImplementedSpecVersion || len(result.IPs) != 1 || result.IPs[0].Address.String() != "10.0.0.5/24" {
		t.Errorf("%v, %v", result, err)
	}
	check := func(want string) {
		t.Helper()
		got, err := os.ReadFile(filepath.Join(dir, "env"))
		if err != nil || string(got) != want {
			t.Errorf("environment %q, %v", got, err)
		}
	}
	path := "CNI_PATH=/nowhere:" + r.Path[1] + "\n"
	check("CNI_ARGS=K=V;IgnoreUnknown=1\nCNI_COMMAND=ADD\nCNI_CONTAINERID=a\nCNI_IFNAME=eth0\nCNI_NETNS=/run/netns/a\n" + path)
	if got, err := os.ReadFile(filepath.Join(dir, "stdin")); err != nil || string(got) != string(r.Config) {
		t.Errorf("configuration %s, %v", got, err)
	}
	if err := Check(t.Context(), r); err != nil {
		t.Error(err)
	}
	r.NetNS = "" // gone
	if err := Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	check("CNI_ARGS=K=V;IgnoreUnknown=1\nCNI_COMMAND=DEL\nCNI_CONTAINERID=a\nCNI_IFNAME=eth0\nCNI_NETNS=\n" + path)

	// GC is new in 1.1.0.
	if err := GC(t.Context(), r, nil); err != nil {
		t.Error(err)
	}
	check("CNI_ARGS=K=V;IgnoreUnknown=1\nCNI_COMMAND=DEL\nCNI_CONTAINERID=a\nCNI_IFNAME=eth0\nCNI_NETNS=\n" + path)
	r.Config = []byte(strings.Replace(string(r.Config), "0.4.0", "1.1.0", 1))
	if err := GC(t.Context(), r, []types.GCAttachment{{ContainerID: "x", IfName: "eth3"}}); err != nil {
		t.Error(err)
	}
	check("CNI_ARGS=K=V;IgnoreUnknown=1\nCNI_COMMAND=GC\nCNI_CONTAINERID=\nCNI_IFNAME=\nCNI_NETNS=\n" + path)
	var given types.PluginConf
	raw, err := os.ReadFile(filepath.Join(dir, "stdin"))
	if err == nil {
		err = json.Unmarshal(raw, &given)
	}
	if err != nil || len(given.ValidAttachments) != 1 || given.ValidAttachments[0].IfName != "eth3" || given.Name != "net" {
		t.Errorf("%s, %v", raw, err)
	}
}

func TestExecErrors(t *testing.T) {
	for name, test := range map[string]struct {
		script string
		code   uint
		msg    string
	}{
		"its own code": {`echo '{"code":11,"msg":"try later","details":"d"}'; exit 1`, types.ErrTryAgainLater, "try later"},
		"no code":      {`echo '{"msg":"no"}'; exit 1`, types.ErrInternal, "no"},
		"silent":       {`exit 3`, types.ErrInternal, "exit status 3"},
		"not JSON":     {`echo oops; exit 1`, types.ErrInternal, "oops"},
		"only stderr":  {`echo broken >&2; exit 1`, types.ErrInternal, "broken"},
	} {
		r := plugin(t, "1.1.0", test.script)
		_, err := Add(t.Context(), r)
		for command, err := range map[string]error{"ADD": err, "DEL": Del(t.Context(), r), "CHECK": Check(t.Context(), r), "GC": GC(t.Context(), r, nil)} {
			var e *types.Error
			if !errors.As(err, &e) || e.Code != test.code || !strings.Contains(e.Msg, test.msg) {
				t.Errorf("%s, %s: %v", name, command, err)
			}
		}
	}
	r := plugin(t, "1.1.0", "exec sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Add(ctx, r); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	r.Path = []string{"/nowhere"}
	var e *types.Error
	if err := Del(t.Context(), r); !errors.As(err, &e) || !strings.Contains(e.Msg, "/nowhere") {
		t.Error(err)
	}
}

// A stock plugin of another type.
func TestStaticPlugin(t *testing.T) {
	r := request("", "a", "")
	r.Path = []string{cniPlugins(t)}
	r.Config = []byte(`{"name":"net","cniVersion":"1.0.0","ipam":{"type":"static","addresses":[{"address":"10.3.0.7/24","gateway":"10.3.0.1"}]}}`)
	if got := add(t, r); !slices.Equal(got, []netip.Prefix{netip.MustParsePrefix("10.3.0.7/24")}) {
		t.Error(got)
	}
	if err := Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	r.Config = []byte(`{"name":"net","cniVersion":"1.0.0","ipam":{"type":"static","addresses":[{"address":"x"}]}}`)
	var e *types.Error
	if _, err := Add(t.Context(), r); !errors.As(err, &e) || e.Code != types.ErrInternal {
		t.Error(err)
	}
}
