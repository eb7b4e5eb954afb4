package images

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// files reads the headers of each layer of an image, by name.
func files(t *testing.T, image Image) []map[string]*tar.Header {
	t.Helper()
	a, err := openArchive(image.Archive)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	layers, err := a.image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var found []map[string]*tar.Header
	for _, layer := range layers {
		content, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		headers := map[string]*tar.Header{}
		in := tar.NewReader(content)
		for {
			header, err := in.Next()
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if headers[header.Name] != nil {
				t.Errorf("%s is in a layer twice", header.Name)
			}
			headers[header.Name] = header
		}
		found = append(found, headers)
		if err := content.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// checkFile fails the test unless a layer has the file with that type and mode, and
// returns it.
func checkFile(t *testing.T, layer map[string]*tar.Header, path string, kind byte, mode int64) *tar.Header {
	t.Helper()
	header := layer[path]
	if header == nil {
		t.Errorf("no %s", path)
		return &tar.Header{}
	}
	if header.Typeflag != kind || header.Mode != mode {
		t.Errorf("%s has type %c and mode %o, not %c and %o", path, header.Typeflag, header.Mode, kind, mode)
	}
	return header
}

const capability = "SCHILY.xattr.security.capability"

func TestBusyboxLayers(t *testing.T) {
	layers := files(t, mustBusybox(t, newCache(t)))
	if len(layers) != 2 {
		t.Fatalf("%d layers", len(layers))
	}
	first, second := layers[0], layers[1]
	checkFile(t, first, "tmp/", tar.TypeDir, 0o1777)
	checkFile(t, first, "bin/busybox", tar.TypeReg, 0o755)
	for _, applet := range []string{"bin/sh", "usr/bin/env"} {
		if to := checkFile(t, first, applet, tar.TypeSymlink, 0o777).Linkname; to != "/bin/busybox" {
			t.Errorf("%s links to %s", applet, to)
		}
	}
	for _, path := range []string{"etc/passwd", "etc/group", "etc/motd", "etc/removed", "srv/opaque/below"} {
		checkFile(t, first, path, tar.TypeReg, 0o644)
	}
	for _, path := range []string{"etc/motd", "etc/.wh.removed", "srv/opaque/.wh..wh..opq", "srv/opaque/above"} {
		checkFile(t, second, path, tar.TypeReg, 0o644)
	}
	const share = "usr/share/peregrine/"
	if to := checkFile(t, second, share+"hardlink", tar.TypeLink, 0o644).Linkname; to != share+"hello" {
		t.Errorf("hard link to %s", to)
	}
	if got := checkFile(t, second, share+"capable", tar.TypeReg, 0o755).PAXRecords[capability]; got != netRaw {
		t.Errorf("capability %q", got)
	}
}

// TestCapabilityIsValid has the kernel judge the capability.
func TestCapabilityIsValid(t *testing.T) {
	needRoot(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setxattr(file, "security.capability", []byte(netRaw), 0); err != nil {
		t.Errorf("the kernel doesn't take the capability: %v", err)
	}
}

func TestRealBusybox(t *testing.T) {
	needRoot(t)
	image := mustBusybox(t, realCache(t))
	applets := 0
	for _, header := range files(t, image)[0] {
		if header.Typeflag == tar.TypeSymlink {
			applets++
		}
	}
	if applets < 200 {
		t.Errorf("only %d applets", applets)
	}
}

func TestDebianData(t *testing.T) {
	needRoot(t)
	cache := realCache(t)
	image, err := DebianData(t.Context(), cache, func(step string, _, _ int64) { t.Log(step) })
	if err != nil {
		t.Fatal(err)
	}
	layers := files(t, image)
	if len(layers) != 2 {
		t.Fatalf("%d layers", len(layers))
	}
	debian, data := layers[0], layers[1]

	for _, program := range []string{"usr/bin/python3.11", "usr/bin/node", "usr/bin/bash"} {
		checkFile(t, debian, program, tar.TypeReg, 0o755)
	}
	checkFile(t, debian, "usr/bin/su", tar.TypeReg, 0o4755)
	checkFile(t, debian, "usr/bin/python3", tar.TypeSymlink, 0o777)
	checkFile(t, debian, "tmp/", tar.TypeDir, 0o1777)
	checkFile(t, debian, "usr/bin/perl5.36.0", tar.TypeLink, 0o755)
	if gid := checkFile(t, debian, "etc/shadow", tar.TypeReg, 0o640).Gid; gid != 42 {
		t.Errorf("etc/shadow has the group %d", gid)
	}
	if checkFile(t, debian, "usr/bin/ping", tar.TypeReg, 0o755).PAXRecords[capability] == "" {
		t.Error("ping has no capability")
	}
	for path := range debian {
		for _, empty := range []string{"dev/", "proc/", "sys/", "usr/share/doc/", "var/lib/apt/lists/"} {
			if strings.HasPrefix(path, empty) && path != empty && !strings.HasSuffix(path, "/") {
				t.Errorf("%s should not be there", path)
			}
		}
	}
	if size := checkFile(t, debian, "etc/apt/sources.list", tar.TypeReg, 0o644).Size; size != 0 {
		t.Error("the image tells where this machine has its packages from")
	}

	for _, file := range dataFiles {
		if size := checkFile(t, data, file.path, tar.TypeReg, 0o644).Size; size != file.size {
			t.Errorf("%s has %d bytes", file.path, size)
		}
	}
}

// TestDataIsTheSameEverywhere pins the first file's bytes.
func TestDataIsTheSameEverywhere(t *testing.T) {
	whole := dataFiles
	dataFiles = slices.Clone(whole[:1])
	t.Cleanup(func() { dataFiles = whole })
	hash := sha256.New()
	if err := writeData(hash); err != nil {
		t.Fatal(err)
	}
	const want = "e66b0c38b7f4dbc5927935c1c3aaf774878914f3d85ba3c1755e8546ea15e8e6"
	if got := fmt.Sprintf("%x", hash.Sum(nil)); got != want {
		t.Errorf("the layer is %s, not %s", got, want)
	}
}
