// Command probe is what runs in the containers that are compared. It tells on standard
// output what a process can see of itself and of its surroundings, in sections:
//
//	[name]
//	line
//	...
//
// Its arguments ask for more:
//
//	read:PATH      open and read a file, or list a directory
//	write:PATH     open a file for writing, or create a file in a directory
//	exec:PATH      run a program from there
//	cgroup:C/FILE  read FILE of the process's own cgroup in hierarchy C, below /cg
//	cat:PATH       the text of a file
//	sys:NAME       try a system call, see syscalls.go
//	exit:N         end with this code; without it, 0
//	signal:N       end by this signal
//	stdin          repeat what comes on standard input
//	stderr:TEXT    write it to standard error
//	wait           end when standard input does
//
// As a hook (first argument "hook"), it appends its section to the file that is its second
// argument.
//
// It does without package os, which raises the limit of open files, and without what
// imports it.

//go:debug containermaxprocs=0
package main

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// out collects what is printed in the end, so that it comes in one piece.
type out struct{ text strings.Builder }

func (o *out) section(name string) { o.line("[" + name + "]") }
func (o *out) line(s string)       { o.text.WriteString(s + "\n") }

// write sends it all to a descriptor.
func (o *out) write(fd int) {
	for text := []byte(o.text.String()); len(text) > 0; {
		n, err := unix.Write(fd, text)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil {
			return // nobody listens
		}
		text = text[n:]
	}
}

func main() {
	o := &out{}
	args := arguments()
	if len(args) > 2 && args[1] == "hook" {
		hook(o, args[2], args[3:])
		return
	}
	// First, before anything opens a file.
	descriptors(o)
	describe(o)
	code, signal := 0, 0
	for _, arg := range args[min(1, len(args)):] {
		what, rest, _ := strings.Cut(arg, ":")
		switch what {
		case "exit":
			code, _ = strconv.Atoi(rest)
		case "signal":
			signal, _ = strconv.Atoi(rest)
		case "stderr":
			unix.Write(2, []byte(rest+"\n"))
		case "stdin":
			o.section("stdin")
			o.line(strconv.Quote(string(readAll(0))))
		case "wait":
			o.write(1)
			o.text.Reset()
			readAll(0)
		default:
			ask(o, what, rest)
		}
	}
	o.write(1)
	if signal != 0 {
		die(unix.Signal(signal))
	}
	unix.Exit(code)
}

// die ends the process by a signal that has its default action.
func die(signal unix.Signal) {
	unix.Kill(unix.Getpid(), signal)
	for {
		unix.Pause()
	}
}

// arguments is os.Args.
func arguments() []string {
	return strings.Split(strings.TrimSuffix(cat("/proc/self/cmdline"), "\x00"), "\x00")
}

// cat is the text of a file, or the error in parentheses.
func cat(path string) string {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "(" + name(err) + ")"
	}
	defer unix.Close(fd)
	var text []byte
	buffer := make([]byte, 1<<16)
	for {
		n, err := unix.Read(fd, buffer)
		if err != nil {
			return "(" + name(err) + ")"
		}
		if n == 0 {
			return string(text)
		}
		text = append(text, buffer[:n]...)
	}
}

// readAll reads until the end or an error.
func readAll(fd int) []byte {
	var text []byte
	buffer := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, buffer)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			return text
		}
		text = append(text, buffer[:n]...)
	}
}

// name is the name of an error such as ENOENT, or ok.
func name(err error) string {
	if err == nil {
		return "ok"
	}
	errno, ok := err.(unix.Errno)
	if !ok || errno == 0 {
		return err.Error()
	}
	if s := unix.ErrnoName(errno); s != "" {
		return s
	}
	return "errno " + strconv.Itoa(int(errno))
}
