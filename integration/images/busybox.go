package images

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// path is the PATH of every image.
const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Busybox returns docker.io/peregrine/busybox:latest: Debian's static busybox,
// taken from CACHE/debian/bin/busybox, with a link for each of its applets, a few
// files in /etc, /tmp, and sh as the command. It has two layers, so that unpacking
// it takes all that layers can do. The second
//   - replaces /etc/motd, which then says "second layer",
//   - removes /etc/removed by a whiteout,
//   - makes /srv/opaque opaque: "below" of the first layer is gone, "above" is there,
//   - adds /usr/share/peregrine/hello, /usr/share/peregrine/hardlink to the same
//     inode, and /usr/share/peregrine/capable with a security.capability
//     (cap_net_raw+ep).
func Busybox(ctx context.Context, cache string, progress Progress) (Image, error) {
	binary := filepath.Join(cache, "debian", "bin", "busybox")
	program, err := os.ReadFile(binary)
	if errors.Is(err, os.ErrNotExist) {
		return Image{}, fmt.Errorf("no static busybox in the cache, run `integration/tools/build.sh %s`: %w", cache, err)
	} else if err != nil {
		return Image{}, fmt.Errorf("read busybox: %w", err)
	}
	applets, err := exec.CommandContext(ctx, binary, "--list-full").Output()
	if err != nil {
		return Image{}, fmt.Errorf("ask busybox for its applets: %w", err)
	}
	layers := [][]entry{busyboxFirst(string(program), strings.Fields(string(applets))), busyboxSecond()}
	from := sha256.New()
	for _, entries := range layers {
		if err := writeEntries(from, entries); err != nil {
			return Image{}, err
		}
	}
	return recipe{
		name: "docker.io/peregrine/busybox:latest",
		from: fmt.Sprintf("%x", from.Sum(nil)),
		build: func(ctx context.Context, s *site) (v1.Image, error) {
			var packed []v1.Layer
			for _, entries := range layers {
				layer, err := s.layer(ctx, "packing busybox", 0, func(w io.Writer) error {
					return writeEntries(w, entries)
				})
				if err != nil {
					return nil, err
				}
				packed = append(packed, layer)
			}
			return assemble(v1.Config{Env: []string{path}, Cmd: []string{"sh"}}, packed...)
		},
	}.cached(ctx, cache, progress)
}

// busyboxFirst is the first layer: program, and a link to it at every path in
// applets.
func busyboxFirst(program string, applets []string) []entry {
	var entries []entry
	for _, dir := range []string{
		"bin/", "dev/", "etc/", "home/", "proc/", "run/", "sbin/", "srv/", "srv/opaque/",
		"sys/", "usr/", "usr/bin/", "usr/sbin/", "usr/share/", "var/",
	} {
		entries = append(entries, entry{path: dir, kind: tar.TypeDir, mode: 0o755})
	}
	entries = append(
		entries,
		entry{path: "root/", kind: tar.TypeDir, mode: 0o700},
		entry{path: "tmp/", kind: tar.TypeDir, mode: 0o1777},
		entry{path: "var/tmp/", kind: tar.TypeDir, mode: 0o1777},
		entry{path: "etc/group", kind: tar.TypeReg, mode: 0o644, body: "root:x:0:\nnogroup:x:65534:\n"},
		entry{path: "etc/motd", kind: tar.TypeReg, mode: 0o644, body: "first layer\n"},
		entry{path: "etc/passwd", kind: tar.TypeReg, mode: 0o644, body: "root:x:0:0:root:/root:/bin/sh\n" +
			"nobody:x:65534:65534:nobody:/:/bin/false\n"},
		entry{path: "etc/removed", kind: tar.TypeReg, mode: 0o644, body: "first layer\n"},
		entry{path: "srv/opaque/below", kind: tar.TypeReg, mode: 0o644, body: "first layer\n"},
		entry{path: "bin/busybox", kind: tar.TypeReg, mode: 0o755, body: program},
	)
	for _, applet := range applets {
		if applet = strings.TrimPrefix(applet, "/"); applet != "bin/busybox" {
			entries = append(entries, entry{path: applet, kind: tar.TypeSymlink, mode: 0o777, body: "/bin/busybox"})
		}
	}
	return entries
}

// netRaw is cap_net_raw+ep as the kernel keeps it: struct vfs_cap_data of
// linux/capability.h, revision 2, little-endian.
const netRaw = "\x01\x00\x00\x02" + "\x00\x20\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"

// busyboxSecond is the second layer, on top of busyboxFirst.
func busyboxSecond() []entry {
	const share = "usr/share/peregrine/"
	return []entry{
		{path: "etc/motd", kind: tar.TypeReg, mode: 0o644, body: "second layer\n"},
		{path: "etc/.wh.removed", kind: tar.TypeReg, mode: 0o644},
		{path: "srv/opaque/", kind: tar.TypeDir, mode: 0o755},
		{path: "srv/opaque/.wh..wh..opq", kind: tar.TypeReg, mode: 0o644},
		{path: "srv/opaque/above", kind: tar.TypeReg, mode: 0o644, body: "second layer\n"},
		{path: share, kind: tar.TypeDir, mode: 0o755},
		{path: share + "hello", kind: tar.TypeReg, mode: 0o644, body: "hello\n"},
		{path: share + "hardlink", kind: tar.TypeLink, mode: 0o644, body: share + "hello"},
		{path: share + "capable", kind: tar.TypeReg, mode: 0o755, body: "#!/bin/sh\n", xattrs: map[string]string{
			"security.capability": netRaw,
		}},
	}
}
