package cube

import (
	"os"

	"golang.org/x/sys/unix"
)

// Pidfd opens a process, the caller's to close.
func Pidfd(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}
