// Package vm boots a small virtual machine for end-to-end tests of what the kernel of
// the host cannot show: a stock Debian kernel, pure cgroup v2, loadable modules. The
// machine is QEMU in software emulation, so it needs neither root nor hardware support,
// and it lives in memory: an initramfs made of the files a test names, and an ext4 disk
// of its own at /var.
//
// What the machine is made of is put into a cache directory by ../tools/build.sh and
// fetch.sh; `make test-vm` runs both and then the tests, which carry the build tag vm.
package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
)

// DefaultMemory is the memory of the VM in MiB where Config names none. The initramfs
// stays in it: some 200 MiB with all that the tests put there.
const DefaultMemory = 2048

// diskSize is the size of the scratch disk at /var in bytes. The image is sparse.
const diskSize = 8 << 30

// Config says what a VM runs.
type Config struct {
	// Cache is the directory filled by ../tools/build.sh and fetch.sh.
	Cache string
	// Files are put into the VM, with the shared libraries they need. Busybox is
	// there already, with all its names in /bin.
	Files []File
	// Smoke lists executables of the host, usually shell scripts, that the VM runs
	// in the lexical order of their base names. An exit status other than 0 is a
	// failure. At least one is needed. Scripts find helpers in /lib/smoke.sh.
	Smoke []string
	// Modules names kernel modules to load besides those that every VM has:
	// overlay, loop, xfs, veth, bridge, vxlan and the disk's drivers. What they
	// depend on is loaded too.
	Modules []string
	// Memory of the VM in MiB; DefaultMemory if 0.
	Memory int
	// CPUs of the VM; 1 if 0. One is the fastest for what is not parallel itself.
	CPUs int
	// Console receives the output of the kernel and of the smoke tests as it comes;
	// nil for none. Run does not close it and is done with it when it returns.
	Console io.Writer
}

// File is a regular file of the host that a VM gets.
type File struct {
	Host  string // path on the host; symbolic links are followed
	Guest string // absolute path in the VM; the permission bits are those of the host
}

// Run boots a VM, runs the smoke tests in it and returns nil if it has said that every
// one passed. An error tells which failed, or that the VM ended or hung without a
// verdict, and ends with the last lines of the console.
//
// The VM is killed when ctx ends, so give ctx a deadline, and when the calling process
// dies. Nothing stays behind on the host in any case: the files of a run have no names.
// Runs may go on at the same time; each takes its memory and a core for each CPU.
func Run(ctx context.Context, cfg Config) error {
	if err := run(ctx, cfg); err != nil {
		return fmt.Errorf("vm: %w", err)
	}
	return nil
}

func run(ctx context.Context, cfg Config) error {
	if len(cfg.Smoke) == 0 {
		return errors.New("no smoke test to run: name one in Config.Smoke")
	}
	kernel, err := findKernel(cfg.Cache)
	if err != nil {
		return err
	}
	image, err := initramfs(cfg, kernel)
	if err != nil {
		return err
	}
	files, err := newRunFiles(ctx, image)
	if err != nil {
		return err
	}
	defer files.close()

	var tail tail
	console := io.Writer(&tail)
	if cfg.Console != nil {
		console = io.MultiWriter(&tail, cfg.Console)
	}
	err = runQEMU(ctx, qemuArgs(cfg, kernel.image), files, console)
	if err == nil {
		err = verdict(files.results, smokeNames(cfg.Smoke))
	}
	if err != nil && len(tail.kept) > 0 {
		return fmt.Errorf("%w; the console ended with:\n%s", err, tail.String())
	}
	return err
}

// Containerd returns the files of stock containerd 2.4 with runc, for Config.Files:
// containerd, ctr and the shim in /usr/bin, runc in /usr/sbin.
func Containerd(cache string) []File {
	return []File{
		{Host: filepath.Join(cache, "containerd-2.4/containerd"), Guest: "/usr/bin/containerd"},
		{Host: filepath.Join(cache, "containerd-2.4/ctr"), Guest: "/usr/bin/ctr"},
		{Host: filepath.Join(cache, "containerd-2.4/containerd-shim-runc-v2"), Guest: "/usr/bin/containerd-shim-runc-v2"},
		{Host: filepath.Join(cache, "debian/usr/sbin/runc"), Guest: "/usr/sbin/runc"},
	}
}

// XFSTools returns the files of mkfs.xfs, xfs_growfs and xfs_repair, for Config.Files.
func XFSTools(cache string) []File {
	return []File{
		{Host: filepath.Join(cache, "vm/sbin/mkfs.xfs"), Guest: "/usr/sbin/mkfs.xfs"},
		{Host: filepath.Join(cache, "vm/usr/sbin/xfs_growfs"), Guest: "/usr/sbin/xfs_growfs"},
		{Host: filepath.Join(cache, "vm/sbin/xfs_repair"), Guest: "/usr/sbin/xfs_repair"},
	}
}

// CRIU returns the files of criu and of the programs that it executes, for Config.Files.
// Busybox's ip and tar lack what it asks of them.
func CRIU(cache string) []File {
	return []File{
		{Host: filepath.Join(cache, "vm/usr/sbin/criu"), Guest: "/usr/sbin/criu"},
		{Host: filepath.Join(cache, "vm/bin/ip"), Guest: "/usr/sbin/ip"},
		{Host: "/bin/tar", Guest: "/usr/sbin/tar"},
	}
}

// CRIUModules are the kernel modules that criu asks about sockets and connections, and
// the one that it stops packets with, for Config.Modules.
func CRIUModules() []string {
	return []string{"af_packet_diag", "netlink_diag", "raw_diag", "tcp_diag", "udp_diag", "unix_diag", "nf_tables", "nf_conntrack_netlink"}
}

// NetworkModules are the kernel modules that the network plugin's rules and programs need,
// for Config.Modules.
func NetworkModules() []string {
	return []string{
		"nf_tables", "nft_chain_nat", "nft_ct", "nft_masq", "nft_nat", "nft_fib", "nft_fib_ipv4", "nft_fib_ipv6", "nft_fib_inet",
		"nft_limit", "nft_meta_bridge", "sch_ingress", "cls_bpf", "act_bpf",
	}
}

// kernel is an unpacked kernel package.
type kernel struct {
	image   string // path of vmlinuz
	modules string // the directory lib/modules/VERSION
}

// findKernel finds the one kernel in the cache.
func findKernel(cache string) (kernel, error) {
	images, err := filepath.Glob(filepath.Join(cache, "vm/boot/vmlinuz-*"))
	if err != nil {
		return kernel{}, fmt.Errorf("look for a kernel in %s: %w", cache, err)
	}
	if len(images) != 1 {
		return kernel{}, fmt.Errorf("%d kernels in %s/vm/boot, want one: run integration/vm/fetch.sh %s", len(images), cache, cache)
	}
	version := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	return kernel{image: images[0], modules: filepath.Join(cache, "vm/lib/modules", version)}, nil
}

// smokeNames returns the names of the smoke tests in the VM, in the order they run in.
func smokeNames(paths []string) []string {
	var names []string
	for _, path := range paths {
		names = append(names, filepath.Base(path))
	}
	slices.Sort(names)
	return names
}
