package sidecar

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/host/hosttest"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// serveApplication is an application: a type T of counters, which
//
//	add      counts, and tells "log" so
//	die      kills the application in the first such turn, and counts in the next
//	call     calls what the body names, within the turn, and answers with what it got
//	read     answers with the count
//	wait     counts, after a while
func serveApplication() error {
	handle := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/plasma/types" {
			fmt.Fprint(w, `{"types": [{"name": "T", "functions": ["add", "die", "call", "read", "wait"]}, {"name": "Periodic", "durable": "periodic"}]}`)
			return
		}
		var q struct {
			Turn, Function string
			Body           json.RawMessage
			State          int
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer := map[string]any{}
		switch q.Function {
		case "call":
			var path string
			_ = json.Unmarshal(q.Body, &path)
			answer["body"] = callWithin(q.Turn, path)
		case "die":
			if marker := os.Getenv(asApplication); os.Remove(marker) == nil {
				_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			}
			answer["state"] = q.State + 1
		case "wait":
			time.Sleep(200 * time.Millisecond) // a turn that takes long
			answer["state"] = q.State + 1
		case "add":
			answer["state"] = q.State + 1
			answer["body"] = q.State + 1
			if string(q.Body) == `"log"` {
				answer["sends"] = []any{map[string]any{"to": map[string]any{"type": "T", "key": "log"}, "function": "add"}}
			}
		default:
			answer["body"] = q.State
		}
		_ = json.NewEncoder(w).Encode(answer)
	}
	return http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), http.HandlerFunc(handle))
}

// callWithin makes a call and gives its status and what was answered.
func callWithin(turn, path string) string {
	r, err := http.NewRequest(http.MethodPost, os.Getenv("PLASMA_URL")+"/v1/call/"+path, nil)
	if err != nil {
		return err.Error()
	}
	r.Header.Set("Authorization", "Bearer "+os.Getenv("PLASMA_TOKEN"))
	r.Header.Set("Plasma-Turn", turn)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", response.StatusCode, bytes.TrimSpace(text))
}

// server is a sidecar in a process of its own.
type server struct {
	t      *testing.T
	env    []string
	client *host.Client
	cmd    *exec.Cmd
	ended  chan struct{}
}

func startServer(t *testing.T) *server {
	root, err := os.MkdirTemp("", "p") // sockets have short names
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	authority, d := hosttest.New("s-1"), hosttest.DirsOf(root, "node", "s-1")
	for name, socket := range map[string]string{"s-1": d.Agent, "": filepath.Join(root, "client")} {
		agent, err := authority.Serve(name, "node", socket, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(agent.Close)
	}
	marker := filepath.Join(root, "die")
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	s := &server{t: t, env: append(os.Environ(),
		"PLASMA_AGENT="+d.Agent, "PLASMA_CONTROL="+d.Control, "PLASMA_PEERS="+d.Peers, "PLASMA_STATE="+d.State,
		fmt.Sprintf("%s=%d", asSidecar, port), asApplication+"="+marker)}
	s.start()
	if s.client, err = host.Dial(t.Context(), filepath.Join(root, "client"), d.Peers); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.client.Close() })
	return s
}

func (s *server) start() {
	cmd, ended := exec.Command(os.Args[0], os.Args[0]), make(chan struct{})
	cmd.Env, cmd.Stderr = s.env, os.Stderr
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	s.cmd, s.ended = cmd, ended
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		<-ended
	})
}

// status waits for the end, and gives the exit status.
func (s *server) status() int {
	<-s.ended
	return s.cmd.ProcessState.ExitCode()
}

func (s *server) call(key, function, body string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	text, err := s.client.Call(ctx, placement.Actor{Type: "T", Key: key}, function, []byte(body))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// An application that dies within a turn takes the sidecar with it. When both are back the turn
// is done, once, and its caller has waited for that.
func TestApplicationDiesWithinATurn(t *testing.T) {
	s := startServer(t)
	if got := s.call("k", "add", ""); got != "1" {
		t.Fatalf("%s", got)
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.client.Call(t.Context(), placement.Actor{Type: "T", Key: "k"}, "die", nil)
		done <- err
	}()
	if got := s.status(); got != 137 {
		t.Errorf("the sidecar ended with %d", got)
	}
	s.start()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := s.call("k", "read", ""); got != "2" {
		t.Errorf("it counted %s", got)
	}
}

// A signal ends the turn under way well, and then the application.
func TestSignalWithinATurn(t *testing.T) {
	s := startServer(t)
	s.call("k", "add", "")
	begun := make(chan error, 1)
	go func() {
		_, err := s.client.Call(t.Context(), placement.Actor{Type: "T", Key: "k"}, "wait", nil)
		begun <- err
	}()
	// The mailbox goes in order: when another actor answers, and it came later, the turn may
	// have begun or not; both must end well.
	s.call("other", "read", "")
	if err := s.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := s.status(); got != 143 {
		t.Errorf("the sidecar ended with %d", got)
	}
	s.start()
	if err := <-begun; err != nil {
		t.Error(err)
	}
	if got := s.call("k", "read", ""); got != "2" {
		t.Errorf("it counted %s", got)
	}
}

func TestCallsOfActors(t *testing.T) {
	s := startServer(t)
	for _, c := range []struct{ path, want string }{
		{"T/other/add", "200 1"},
		{"T/other/read", "200 1"},
		{"T/k/read", `412 {"error":{"code":"precondition"`}, // it waits in that call itself
		{"T/other/no", `404 {"error":{"code":"not-found"`},
		{"U/other/no", `404 {"error":{"code":"not-found"`},
	} {
		path, err := json.Marshal(c.path)
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if err := json.Unmarshal([]byte(s.call("k", "call", string(path))), &got); err != nil || len(got) < len(c.want) || got[:len(c.want)] != c.want {
			t.Errorf("%s: %s, %v, want %s", c.path, got, err, c.want)
		}
	}
	// Sends have one effect each.
	for range 10 {
		s.call("k", "add", `"log"`)
	}
	deadline := time.Now().Add(30 * time.Second)
	for s.call("log", "read", "") != "10" {
		if time.Now().After(deadline) {
			t.Fatalf("10 sends have the effect of %s", s.call("log", "read", ""))
		}
		time.Sleep(5 * time.Millisecond) // nobody tells when a send has arrived
	}
}
