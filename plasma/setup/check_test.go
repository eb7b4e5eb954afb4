package setup

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/internal/check"
	"github.com/peregrine-dev/peregrine/plasma/config"
)

func TestCheck(t *testing.T) {
	results, err := Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, r := range results {
		if seen[r.Probe] || r.Plugin != Name || r.Detail == "" {
			t.Errorf("%+v", r)
		}
		seen[r.Probe] = true
	}
	for _, probe := range []string{"programs", "containerd", "cgroups", "state", "clock", "plasmad"} {
		if !seen[probe] {
			t.Errorf("%s was not probed: %v", probe, seen)
		}
	}
}

func TestPrograms(t *testing.T) {
	bin := t.TempDir()
	want(t, programs(bin), check.Missing, "no service runs")
	for _, name := range []string{program, sidecar} {
		if err := os.WriteFile(filepath.Join(bin, name), nil, 0o700); err != nil {
			t.Fatal(err)
		}
		if name == program {
			want(t, programs(bin), check.Limited, "services with a sidecar")
		}
	}
	want(t, programs(bin), check.OK, bin)
}

func TestPartsWithoutContainerd(t *testing.T) {
	cfg := config.Default()
	cfg.Containerd = filepath.Join(t.TempDir(), "none")
	results := parts(t.Context(), cfg)
	if len(results) != 1 {
		t.Errorf("%+v", results)
	}
	want(t, results[0], check.Missing, "no such file or directory: no server starts")
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	r := directory(filepath.Join(dir, "not", "there"))
	if r.Status == check.Missing { // how fast the disk is, and whether it is one, is the host's
		t.Errorf("%+v", r)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left %v, %v", entries, err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, directory(file), check.Missing, "actors can store nothing")
}

func TestPorts(t *testing.T) {
	cfg := config.Default()
	cfg.Web.Address = ""
	want(t, ports(cfg), check.OK, "none are needed")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Web.Address = l.Addr().String()
	want(t, ports(cfg), check.Missing, "web.address of /etc/plasma/config.toml: ")
	l.Close()
	want(t, ports(cfg), check.OK, "free: "+cfg.Web.Address)
}

func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	cfg := config.Default()
	cfg.Address = "192.0.2.1:7700"
	cfg.TLS = config.TLS{CA: "ca", Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	want(t, certificate(cfg), check.Missing, "don't know each other")
	for _, c := range []struct {
		days    int
		address string
		status  check.Status
		says    string
	}{
		{100, "192.0.2.1", check.OK, "until"},
		{3, "192.0.2.1", check.Limited, "replace it"},
		{-1, "192.0.2.1", check.Missing, "ended at"},
		{100, "192.0.2.2", check.Missing, "other nodes don't take it"},
	} {
		issue(t, cfg.TLS, time.Duration(c.days)*24*time.Hour, c.address)
		want(t, certificate(cfg), c.status, c.says)
	}
}

// issue writes a certificate of an address that ends after a while.
func issue(t *testing.T, to config.TLS, after time.Duration, address string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(after),
		IPAddresses: []net.IP{net.ParseIP(address)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.WriteFile(to.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(to.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600),
	); err != nil {
		t.Fatal(err)
	}
}
