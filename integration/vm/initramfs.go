package vm

import (
	"bufio"
	"embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
)

//go:embed guest
var guest embed.FS

// baseModules are loaded in every VM, before what a test names: without the first two
// there is no /dev/vda.
var baseModules = []string{"virtio_pci", "virtio_blk", "loop", "overlay", "xfs", "veth", "bridge", "vxlan"}

// initramfs puts together what a VM starts from.
func initramfs(cfg Config, kernel kernel) (*archive, error) {
	a := newArchive()
	if err := a.addBase(cfg.Cache); err != nil {
		return nil, err
	}
	for _, smoke := range cfg.Smoke {
		if err := a.file(smoke, "/smoke.d/"+filepath.Base(smoke), 0o755); err != nil {
			return nil, err
		}
	}
	libraries := librarySearch{dirs: libraryDirs(filepath.Join(cfg.Cache, "vm"))}
	for _, f := range cfg.Files {
		if !path.IsAbs(f.Guest) {
			return nil, fmt.Errorf("the path %q of %s in the VM is not absolute", f.Guest, f.Host)
		}
		info, err := os.Stat(f.Host)
		if err != nil {
			return nil, fmt.Errorf("add %s to the VM: %w", f.Guest, err)
		}
		if err := a.file(f.Host, f.Guest, info.Mode().Perm()); err != nil {
			return nil, err
		}
		if err := libraries.add(f.Host); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(libraries.found)) {
		if err := a.file(libraries.found[name], "/lib/"+name, 0o755); err != nil {
			return nil, err
		}
	}
	return a, a.addModules(kernel.modules, slices.Concat(baseModules, cfg.Modules))
}

// addBase adds what every VM has: /init, busybox and the helpers of the smoke tests.
func (a *archive) addBase(cache string) error {
	errs := []error{
		a.record(cpio.Directory("/tmp", 0o1777)),
		a.record(cpio.Directory("/root", 0o700)),
		a.record(cpio.CharDev("/dev/console", 0o600, 5, 1)),
		a.record(cpio.CharDev("/dev/null", 0o666, 1, 3)),
		// All the libraries are in one directory, where every loader looks.
		a.record(cpio.Directory("/lib", 0o755)),
		a.record(cpio.Symlink("/lib64", "lib")),
		a.record(cpio.StaticFile("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644)),
		a.record(cpio.StaticFile("/etc/group", "root:x:0:\n", 0o644)),
		a.file(filepath.Join(cache, "debian/bin/busybox"), "/bin/busybox", 0o755),
	}
	for _, f := range []struct {
		name, guest string
		perm        uint64
	}{{"guest/init", "/init", 0o755}, {"guest/lib.sh", "/lib/smoke.sh", 0o644}} {
		text, err := guest.ReadFile(f.name)
		errs = append(errs, err, a.record(cpio.StaticFile(f.guest, string(text), f.perm)))
	}
	return errors.Join(errs...)
}

// addModules adds kernel modules with what they depend on, and the order to load them in.
func (a *archive) addModules(dir string, names []string) error {
	tree, err := openModules(dir)
	if err != nil {
		return err
	}
	paths, err := tree.loadOrder(names)
	if err != nil {
		return err
	}
	var order strings.Builder
	for _, p := range paths {
		base := filepath.Base(p)
		if err := a.file(p, "/lib/modules/"+base, 0o644); err != nil {
			return err
		}
		fmt.Fprintln(&order, base)
	}
	return a.record(cpio.StaticFile("/lib/modules/order", order.String(), 0o644))
}

// archive is a file system to be, written as a cpio archive in the newc format, which is
// what the kernel unpacks. Everything in it belongs to root. It is not safe for
// concurrent use.
type archive struct {
	entries []entry
	seen    map[string]string // where the entry of a path comes from, by path
}

// entry is one file of an archive.
type entry struct {
	record cpio.Record
	host   string // the file with the content of a regular file, or ""
}

func newArchive() *archive { return &archive{seen: map[string]string{}} }

// file adds a regular file with the content that the host's file has when the archive is
// written.
func (a *archive) file(host, guest string, perm os.FileMode) error {
	info, err := os.Stat(host)
	if err != nil {
		return fmt.Errorf("add %s to the VM: %w", guest, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("add %s to the VM: %s is not a regular file", guest, host)
	}
	return a.add(entry{host: host, record: cpio.Record{Info: cpio.Info{
		Name:     guest,
		Mode:     cpio.S_IFREG | uint64(perm.Perm()),
		FileSize: uint64(info.Size()),
	}}})
}

// record adds anything whose content is known already.
func (a *archive) record(r cpio.Record) error { return a.add(entry{record: r}) }

// add adds an entry, after the directories it is in: the kernel makes none by itself. To
// add the same file of the host twice is no error, to add two at the same path is.
func (a *archive) add(e entry) error {
	name := cpio.Normalize(e.record.Name)
	from := e.host
	if from == "" {
		from = "the base of the VM"
	}
	if before, ok := a.seen[name]; ok {
		if before == from {
			return nil
		}
		return fmt.Errorf("both %s and %s would be /%s in the VM", before, from, name)
	}
	if dir := path.Dir(name); dir != "." {
		if _, ok := a.seen[dir]; !ok {
			if err := a.record(cpio.Directory(dir, 0o755)); err != nil {
				return err
			}
		}
	}
	e.record.Name = name
	a.seen[name] = from
	a.entries = append(a.entries, e)
	return nil
}

// write writes the archive.
func (a *archive) write(w io.Writer) error {
	buffered := bufio.NewWriterSize(w, 1<<20)
	out := cpio.Newc.Writer(buffered)
	for _, e := range a.entries {
		if err := writeEntry(out, e); err != nil {
			return fmt.Errorf("write /%s to the initramfs: %w", e.record.Name, err)
		}
	}
	if err := errors.Join(cpio.WriteTrailer(out), buffered.Flush()); err != nil {
		return fmt.Errorf("write the initramfs: %w", err)
	}
	return nil
}

// writeEntry writes one entry; the host's file is open for only as long as that takes.
func writeEntry(out cpio.RecordWriter, e entry) error {
	if e.host == "" {
		return out.WriteRecord(e.record)
	}
	f, err := os.Open(e.host)
	if err != nil {
		return err
	}
	defer f.Close()
	e.record.ReaderAt = io.NewSectionReader(f, 0, int64(e.record.FileSize))
	return out.WriteRecord(e.record)
}
