package falcon

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve answers each call by what answer says of its text, until the test ends.
func serve(t *testing.T, answer func(request string) string) Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "cni.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			request, err := io.ReadAll(conn)
			if err == nil {
				_, err = io.WriteString(conn, answer(string(request)))
			}
			if err = errors.Join(err, conn.Close()); err != nil && t.Context().Err() == nil {
				t.Log(err) // of a client that gave up
			}
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return Client{Socket: socket, Owner: "us"}
}

func TestCalls(t *testing.T) {
	var asked string
	c := serve(t, func(request string) string {
		asked = request
		if strings.HasPrefix(request, "CNI_COMMAND=PAIRS") {
			return `0[{"network":"web","source":"10.0.0.1","destination":"10.0.0.2","sourceContainer":"a-0","sentBytes":7,"new":1}]`
		}
		return "0{}"
	})
	if err := c.Reserve(t.Context(), "a-0", High); err != nil || asked != "CNI_COMMAND=RESERVE\x00\x00"+`{"class":"high","containerID":"a-0","owner":"us"}` {
		t.Errorf("%q, %v", asked, err)
	}
	if err := c.Release(t.Context(), "a-0"); err != nil || asked != "CNI_COMMAND=RELEASE\x00\x00"+`{"containerID":"a-0","owner":"us"}` {
		t.Errorf("%q, %v", asked, err)
	}
	pairs, err := c.Pairs(t.Context())
	if err != nil || asked != "CNI_COMMAND=PAIRS\x00\x00" || len(pairs) != 1 || pairs[0].SourceContainer != "a-0" || pairs[0].SentBytes != 7 {
		t.Errorf("%q, %+v, %v", asked, pairs, err)
	}
}

func TestRefused(t *testing.T) {
	for answer, is := range map[string]func(error) bool{
		`1{"code":3,"msg":"no such container"}`:          errdefs.IsNotFound,
		`1{"code":7,"msg":"no class","details":"use x"}`: errdefs.IsInvalidArgument,
		`1{"code":11,"msg":"nobody counts"}`:             errdefs.IsUnavailable,
		`1{"code":999,"msg":"other"}`:                    func(err error) bool { return strings.HasSuffix(err.Error(), "PAIRS: other") },
		`1nonsense`:                                      func(err error) bool { return strings.Contains(err.Error(), "nonsense") },
		`0nonsense`:                                      func(err error) bool { return err != nil },
		``:                                               errdefs.IsUnavailable,
	} {
		c := serve(t, func(string) string { return answer })
		if _, err := c.Pairs(t.Context()); err == nil || !is(err) {
			t.Errorf("%s: %v", answer, err)
		}
	}
	if err := (Client{Socket: filepath.Join(t.TempDir(), "no.sock")}).Release(t.Context(), "a-0"); !errdefs.IsUnavailable(err) {
		t.Errorf("no agent: %v", err)
	}
}

// A caller that gives up is not held by an agent that doesn't answer.
func TestGivesUp(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := serve(t, func(string) string {
		cancel()
		<-ctx.Done()
		return ""
	})
	if err := c.Reserve(ctx, "a-0", Low); !errors.Is(err, context.Canceled) && !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{"", "0", "0[]", `0[{"source":"::1"}]`, `1{"code":3,"msg":"x"}`, "1", "2{}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var pairs []Pair
		if err := decode(text, &pairs); err == nil && text[0] != '0' {
			t.Errorf("%q is a success", text)
		}
	})
}
