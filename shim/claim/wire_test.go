package claim

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func full(t testing.TB) *bootapi.BootstrapParams {
	t.Helper()
	dir := "/run/containerd/s"
	p := &bootapi.BootstrapParams{
		InstanceID: "id", Namespace: "ns", LogLevel: bootapi.LogLevel_LOG_LEVEL_DEBUG, ContainerdVersion: "v2.4.2",
		ContainerdTtrpcAddress: "/t", ContainerdGrpcAddress: "/g", ContainerdBinary: "/b", SocketDir: &dir,
	}
	if err := p.AddExtension(&types.MountCapabilities{Types: []string{"erofs"}}); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParseParams(t *testing.T) {
	got, ok := ParseParams(marshal(t, full(t)))
	want := Params{ID: "id", Namespace: "ns", LogLevel: -4, ContainerdVersion: "v2.4.2", TTRPCAddress: "/t", GRPCAddress: "/g", Binary: "/b"}
	if !ok || got != want {
		t.Errorf("got %+v, %v; want %+v", got, ok, want)
	}
}

func TestBootstrapResultIsWhatContainerdReads(t *testing.T) {
	want := &bootapi.BootstrapResult{Version: 3, Address: "unix:///run/x", Protocol: "ttrpc"}
	if err := want.AddExtension(&types.MountCapabilities{}); err != nil {
		t.Fatal(err)
	}
	var got bootapi.BootstrapResult
	if err := proto.Unmarshal(Answer(Bootstrap, "unix:///run/x"), &got); err != nil || !proto.Equal(&got, want) {
		t.Errorf("got %v, %v; want %v", &got, err, want)
	}
	var caps types.MountCapabilities
	if found, err := got.FindExtension(&caps); !found || err != nil {
		t.Errorf("the mount capabilities are %v, %v", found, err)
	}
}

func TestDeleteResponse(t *testing.T) {
	for _, at := range []time.Time{time.Unix(0, 0), time.Unix(1, 999999000), time.Now()} {
		var got taskapi.DeleteResponse
		if err := proto.Unmarshal(DeleteResponse(137, at.Unix(), int32(at.Nanosecond())), &got); err != nil {
			t.Fatal(err)
		}
		want := &taskapi.DeleteResponse{ExitStatus: 137, ExitedAt: timestamppb.New(at)}
		if !proto.Equal(&got, want) {
			t.Errorf("got %v, want %v", &got, want)
		}
	}
}

func TestDetect(t *testing.T) {
	options, err := typeurl.MarshalAnyToProto(&runcoptions.Options{BinaryName: "crun"})
	if err != nil {
		t.Fatal(err)
	}
	other := full(t)
	other.InstanceID = "another"
	for name, c := range map[string]struct {
		stdin      []byte
		maxVersion bool
		want       Protocol
	}{
		"2.3":                      {marshal(t, full(t)), true, Bootstrap},
		"2.3, environment changed": {marshal(t, full(t)), false, Bootstrap},
		"1.7":                      {nil, true, JSON},
		"1.7 with options":         {marshal(t, options), true, JSON},
		"1.6":                      {nil, false, Address},
		"1.6 with options":         {marshal(t, options), false, Address},
		"of another container":     {marshal(t, other), true, JSON},
		"noise":                    {[]byte("\xff\xff\xff"), true, JSON},
	} {
		t.Run(name, func(t *testing.T) {
			got, params := Detect(c.stdin, "id", "ns", c.maxVersion)
			if got != c.want || params.ID != "id" || params.Namespace != "ns" {
				t.Errorf("got %d, %+v; want %d", got, params, c.want)
			}
		})
	}
}

func TestAnswerOfOlderContainerds(t *testing.T) {
	const address = `unix:///run/a"b\c/shim.sock`
	if got := string(Answer(Address, address)); got != address {
		t.Errorf("1.6 gets %s", got)
	}
	var got struct {
		Version           int
		Address, Protocol string
	}
	if err := json.Unmarshal(Answer(JSON, address), &got); err != nil || got.Version != 2 || got.Address != address || got.Protocol != "ttrpc" {
		t.Errorf("1.7 gets %+v, %v", got, err)
	}
	// What 2.3 and newer try first must not succeed with an older answer.
	for _, p := range []Protocol{Address, JSON} {
		if err := proto.Unmarshal(Answer(p, "unix:///run/flashcube"), &bootapi.BootstrapResult{}); err == nil {
			t.Errorf("answer %d is a protobuf message, too", p)
		}
	}
}

func TestRequestJSON(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	text := func() string {
		var b strings.Builder
		for range r.IntN(12) {
			b.WriteString([]string{"a", "/", `"`, `\`, "\n", "\x00", "\x1f", "ä", "😀", "\u2028", "<", "\xff", "\xed\xa0\x80"}[r.IntN(13)])
		}
		return b.String()
	}
	for range 2000 {
		want := Request{text(), text(), text(), text(), text(), text(), r.IntN(1 << 22), r.IntN(2) == 0}
		plain, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(plain, &want); err != nil { // what is no UTF-8 is replaced
			t.Fatal(err)
		}
		var got Request
		if err := json.Unmarshal(want.appendJSON(nil), &got); err != nil || got != want {
			t.Fatalf("%v: read\n%+v, want\n%+v", err, got, want)
		}
	}
}

// FuzzParseParams compares with the real decoder: what that one accepts is read the same.
func FuzzParseParams(f *testing.F) {
	f.Add(marshal(f, full(f)))
	f.Add([]byte{})
	f.Add([]byte("\x0a\x02id\x12\x02ns"))
	f.Add([]byte("\x18\xfc\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Add([]byte("\x1d\x00\x00\x00\x00\x19\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x0b\x0c"))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, ok := ParseParams(b)
		var want bootapi.BootstrapParams
		if err := proto.Unmarshal(b, &want); err != nil {
			return // it is stricter: UTF-8, and what is inside the extensions
		}
		// Groups are of proto2: refused here, skipped there.
		if !ok {
			if len(want.ProtoReflect().GetUnknown()) == 0 {
				t.Fatalf("refused %x, which is %v", b, &want)
			}
			return
		}
		if got != (Params{want.InstanceID, want.Namespace, int32(want.LogLevel), want.ContainerdVersion, want.ContainerdTtrpcAddress, want.ContainerdGrpcAddress, want.ContainerdBinary}) {
			t.Errorf("read %+v, want %v", got, &want)
		}
	})
}

func BenchmarkParseParams(b *testing.B) {
	text := marshal(b, full(b))
	b.ReportAllocs()
	for b.Loop() {
		ParseParams(text)
	}
}
