package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// runFiles are the files of one run. They have no names in any directory, so they
// vanish with the last process that has them open.
type runFiles struct {
	disk      *os.File // ext4, mounted at /var
	initramfs *os.File
	results   *os.File // what /init writes to the second serial port
}

// newRunFiles makes the files of a run; archive writes the initramfs. The caller closes
// them.
func newRunFiles(ctx context.Context, archive *archive) (_ *runFiles, err error) {
	files := &runFiles{}
	defer func() {
		if err != nil {
			files.close()
		}
	}()
	for _, f := range []**os.File{&files.disk, &files.initramfs, &files.results} {
		if *f, err = unnamedFile(); err != nil {
			return nil, err
		}
	}
	if err = archive.write(files.initramfs); err != nil {
		return nil, err
	}
	if err = files.disk.Truncate(diskSize); err != nil {
		return nil, fmt.Errorf("size the scratch disk: %w", err)
	}
	return files, formatDisk(ctx, files.disk)
}

// close gives the space of the files back.
func (f *runFiles) close() {
	for _, file := range []*os.File{f.disk, f.initramfs, f.results} {
		if file != nil {
			_ = file.Close() // there is nothing in it that anybody wants
		}
	}
}

// unnamedFile opens a new file on the file system for temporary files and takes its name
// away, so that not even a kill -9 leaves it behind.
func unnamedFile() (*os.File, error) {
	f, err := os.CreateTemp("", "peregrine-vm-")
	if err != nil {
		return nil, fmt.Errorf("make a temporary file, TMPDIR says where: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("take the name of a temporary file away: %w", err), f.Close())
	}
	return f, nil
}

// formatDisk makes an ext4 file system on an empty disk image.
func formatDisk(ctx context.Context, disk *os.File) error {
	program, err := findProgram("mkfs.ext4", "e2fsprogs")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, "-q", "-F", "-m", "0", childFile(0))
	cmd.ExtraFiles = []*os.File{disk}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("format the scratch disk: %w: %s", err, out)
	}
	return nil
}

// runQEMU runs a VM, with arguments of qemuArgs, until it powers off. The console is the VM's first serial port
// together with what QEMU itself has to say. An error means that QEMU could not be run,
// exited with an error, or was killed because ctx ended; whether the VM did its job is
// said by files.results, which then is at its start.
func runQEMU(ctx context.Context, args []string, files *runFiles, console io.Writer) error {
	program, err := findProgram("qemu-system-x86_64", "qemu-system-x86")
	if err != nil {
		return err
	}
	// The kernel kills a child with its parent by thread, not by process: keep this
	// one for as long as QEMU lives.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.CommandContext(ctx, program, args...)
	cmd.ExtraFiles = []*os.File{files.disk, files.initramfs, files.results}
	cmd.Stdout = console
	cmd.Stderr = console
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	start := time.Now()
	err = cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("the VM was killed after %s: %w", time.Since(start).Round(time.Second), context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", program, err)
	}
	if _, err := files.results.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read the results: %w", err)
	}
	return nil
}

// qemuArgs returns the arguments of QEMU for a VM. Files are named as the child finds
// those of runFiles, in order, among its extra files.
func qemuArgs(cfg Config, kernel string) []string {
	memory, cpus := cfg.Memory, cfg.CPUs
	if memory == 0 {
		memory = DefaultMemory
	}
	if cpus == 0 {
		cpus = 1
	}
	return []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		// Software emulation wherever it runs: hardware acceleration is faster but
		// hangs on hosts that are themselves virtual.
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", strconv.Itoa(cpus),
		"-m", strconv.Itoa(memory),
		"-kernel", kernel,
		"-initrd", childFile(1),
		// A panic reboots at once, which -no-reboot turns into an exit.
		"-append", "console=ttyS0 quiet panic=-1",
		"-serial", "stdio",
		"-serial", "file:" + childFile(2),
		"-drive", "if=virtio,format=raw,cache=unsafe,file=" + childFile(0),
	}
}

// childFile is the path by which a child opens entry i of its exec.Cmd.ExtraFiles.
func childFile(i int) string { return fmt.Sprintf("/proc/self/fd/%d", 3+i) }

// findProgram looks for a program of a Debian package on PATH and, as a user other than
// root has no sbin there, in the directories for system programs.
func findProgram(name, debianPackage string) (string, error) {
	for _, path := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		found, err := exec.LookPath(path)
		if err == nil {
			return found, nil
		}
		if !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("look for %s: %w", name, err)
		}
	}
	return "", fmt.Errorf("%s is not installed: run apt-get install --no-install-recommends %s", name, debianPackage)
}
