package protocol

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEncodeDecode(t *testing.T) {
	request := Encode([]string{"HOME=/", "CNI_COMMAND=ADD", "CNI_ARGS=K=v;L=w", "CNI_COMMAND=DEL", "CNI_UNKNOWN=1"}, []byte(`{"a": 1}`))
	variables, config, err := Decode(request)
	if err != nil || string(config) != `{"a": 1}` || len(variables) != 2 || variables["CNI_COMMAND"] != "ADD" || variables["CNI_ARGS"] != "K=v;L=w" {
		t.Errorf("%v, %q, %v", variables, config, err)
	}
}

func TestDecodeErrors(t *testing.T) {
	for _, request := range []string{"", "CNI_COMMAND=ADD", "CNI_COMMAND=ADD\x00", "HOME=/\x00\x00", "CNI_COMMAND\x00\x00", "CNI_ARGS=\x00CNI_ARGS=\x00\x00"} {
		if v, c, err := Decode([]byte(request)); err == nil {
			t.Errorf("%q: %v, %q", request, v, c)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode([]string{"CNI_COMMAND=ADD", "CNI_NETNS=/x"}, []byte("{}")))
	f.Fuzz(func(t *testing.T, request []byte) {
		variables, config, err := Decode(request)
		if err != nil {
			return
		}
		var environ []string
		for name, value := range variables {
			if strings.ContainsRune(value, 0) {
				t.Errorf("%s=%q", name, value)
			}
			environ = append(environ, name+"="+value)
		}
		again, text, err := Decode(Encode(environ, config))
		if err != nil || !bytes.Equal(text, config) || len(again) != len(variables) {
			t.Errorf("%v, %q, %v; want %v, %q", again, text, err, variables, config)
		}
	})
}

// serve answers one call with reply, which may be cut short, and returns what it was.
func serve(t *testing.T, l net.Listener, reply string) (request []byte, rights int) {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Error(err)
		return nil, 0
	}
	defer c.Close()
	first := make([]byte, 1<<16)
	oob := make([]byte, unix.CmsgSpace(4))
	n, m, _, _, err := c.(*net.UnixConn).ReadMsgUnix(first, oob)
	if err != nil {
		t.Error(err)
		return nil, 0
	}
	if messages, err := unix.ParseSocketControlMessage(oob[:m]); err == nil && len(messages) == 1 {
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil {
			t.Error(err)
		}
		for _, fd := range fds {
			rights++
			unix.Close(fd)
		}
	}
	rest, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
	}
	if _, err := io.WriteString(c, reply); err != nil {
		t.Error(err)
	}
	return append(first[:n], rest...), rights
}

func TestCall(t *testing.T) {
	dir, err := os.MkdirTemp("", "p-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, Socket)
	if _, _, err := Call(socket, []byte("x"), -1); !errors.Is(err, ErrNoAgent) {
		t.Errorf("of nobody: %v", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	large := strings.Repeat("r", 300_000)
	for _, c := range []struct {
		name, reply, output string
		ok                  bool
		err                 error
		request             string
		namespace           int
	}{
		{name: "result", reply: "0{}", output: "{}", ok: true, request: "x", namespace: 0},
		{name: "error", reply: "1{}", output: "{}", request: "x", namespace: -1},
		{name: "large", reply: "0" + large, output: large, ok: true, request: large, namespace: 0},
		{name: "no answer", reply: "", err: ErrNoAgent, request: "x", namespace: -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			type got struct {
				request []byte
				rights  int
			}
			served := make(chan got, 1)
			go func() {
				request, rights := serve(t, l, c.reply)
				served <- got{request, rights}
			}()
			output, ok, err := Call(socket, []byte(c.request), c.namespace)
			if string(output) != c.output || ok != c.ok || !errors.Is(err, c.err) {
				t.Errorf("%.20q, %t, %v", output, ok, err)
			}
			g := <-served
			if string(g.request) != c.request || (g.rights == 1) != (c.namespace >= 0) {
				t.Errorf("%.20q, %d descriptors", g.request, g.rights)
			}
		})
	}
}
