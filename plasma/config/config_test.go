package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestDefaultIsRead(t *testing.T) {
	text, err := Default().Write()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file, true)
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.Write()
	if err != nil || string(again) != string(text) {
		t.Errorf("read and written again it is\n%s\nwant\n%s\n%v", again, text, err)
	}
}

func TestMistakes(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{`nod = "a"`, "unknown key"},
		{`node = "a/b"`, "is no name"},
		{`cluster = ""`, "is no name"},
		{`address = "10.0.0.1"`, "is not host:port"},
		{`address = "10.0.0.1:7700"`, "set ca, cert and key"},
		{"[web]\naddress = \"0.0.0.0:80\"", "for loopback"},
		{`period = "0s"`, "is no time"},
		{"[etcd]\nendpoints = [\"http://127.0.0.1:2379\"]\n[member]\npeer = \"127.0.0.1:2380\"\n[tls]\nca = \"a\"\ncert = \"b\"\nkey = \"c\"", "no member of its own"},
	} {
		t.Run(test.want, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.toml")
			if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(file, true)
			if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), file+":") {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}
