package main

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// descriptors lists what is open, with the kind of what it leads to.
func descriptors(o *out) {
	o.section("fds")
	fd, err := unix.Open("/proc/self/fd", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		o.line("(" + name(err) + ")")
		return
	}
	defer unix.Close(fd)
	for _, entry := range names(fd) {
		if entry == strconv.Itoa(fd) {
			continue
		}
		flags := ""
		n, _ := strconv.Atoi(entry)
		if got, err := unix.FcntlInt(uintptr(n), unix.F_GETFL, 0); err == nil {
			flags = strconv.FormatInt(int64(got), 8)
		}
		o.line(entry + " " + readlink("/proc/self/fd/"+entry) + " " + flags)
	}
}

// names lists a directory, sorted, without . and ..
func names(fd int) []string {
	buffer := make([]byte, 1<<16)
	var all []string
	for {
		n, err := unix.ReadDirent(fd, buffer)
		if err != nil || n <= 0 {
			slices.Sort(all)
			return all
		}
		_, _, all = unix.ParseDirent(buffer[:n], -1, all)
	}
}

func readlink(path string) string {
	buffer := make([]byte, 4096)
	n, err := unix.Readlink(path, buffer)
	if err != nil {
		return "(" + name(err) + ")"
	}
	return string(buffer[:n])
}

// describe prints everything that every process has.
func describe(o *out) {
	lines := func(section, text string) {
		o.section(section)
		for _, l := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
			o.line(l)
		}
	}
	lines("status", cat("/proc/self/status"))
	lines("mountinfo", cat("/proc/self/mountinfo"))
	lines("limits", cat("/proc/self/limits"))
	lines("cgroup", cat("/proc/self/cgroup"))
	lines("environ", strings.ReplaceAll(cat("/proc/self/environ"), "\x00", "\n"))
	lines("argv", strings.ReplaceAll(cat("/proc/self/cmdline"), "\x00", "\n"))
	lines("label", strings.TrimRight(cat("/proc/self/attr/current"), "\x00"))
	lines("uid_map", cat("/proc/self/uid_map"))
	lines("gid_map", cat("/proc/self/gid_map"))
	lines("setgroups", cat("/proc/self/setgroups"))
	lines("timens", cat("/proc/self/timens_offsets"))
	process(o)
	namespaces(o)
	o.section("dev")
	tree(o, "/dev", 0)
	o.section("root")
	list(o, "/")
	o.section("net")
	list(o, "/sys/class/net")
	for _, l := range strings.Split(cat("/proc/net/dev"), "\n") {
		if device, _, ok := strings.Cut(l, ":"); ok {
			o.line("device " + strings.TrimSpace(device))
		}
	}
}

// process prints attributes that have system calls of their own.
func process(o *out) {
	o.section("process")
	pair := func(key, value string) { o.line(key + " " + value) }
	number := func(key string, n int, err error) {
		if err != nil {
			pair(key, "("+name(err)+")")
			return
		}
		pair(key, strconv.Itoa(n))
	}
	get := func(key string, trap uintptr, args ...uintptr) {
		args = append(args, 0, 0, 0, 0, 0)
		n, _, errno := unix.RawSyscall6(trap, args[0], args[1], args[2], args[3], args[4], 0)
		if errno != 0 {
			pair(key, "("+name(errno)+")")
			return
		}
		number(key, int(n), nil)
	}
	buffer := make([]byte, 4096)
	n, err := unix.Getcwd(buffer)
	if err != nil {
		pair("cwd", "("+name(err)+")")
	} else {
		pair("cwd", string(buffer[:n-1]))
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err == nil {
		pair("hostname", unix.ByteSliceToString(uts.Nodename[:]))
		pair("domainname", unix.ByteSliceToString(uts.Domainname[:]))
		pair("machine", unix.ByteSliceToString(uts.Machine[:]))
	}
	pair("oom_score_adj", strings.TrimSpace(cat("/proc/self/oom_score_adj")))
	pair("coredump_filter", strings.TrimSpace(cat("/proc/self/coredump_filter")))
	pair("loginuid", strings.TrimSpace(cat("/proc/self/loginuid")))
	pair("exe", readlink("/proc/self/exe"))
	pair("rootlink", readlink("/proc/self/root"))
	number("pid", unix.Getpid(), nil)
	number("ppid", unix.Getppid(), nil)
	sid, err := unix.Getsid(0)
	number("sid", sid, err)
	number("pgrp", unix.Getpgrp(), nil)
	get("personality", unix.SYS_PERSONALITY, 0xffffffff)
	get("nice", unix.SYS_GETPRIORITY, unix.PRIO_PROCESS, 0)
	get("scheduler", unix.SYS_SCHED_GETSCHEDULER, 0)
	get("ioprio", unix.SYS_IOPRIO_GET, 1, 0)
	var signal int32
	unix.RawSyscall(unix.SYS_PRCTL, unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&signal)), 0)
	number("pdeathsig", int(signal), nil)
	var reaper int32
	unix.RawSyscall(unix.SYS_PRCTL, unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&reaper)), 0)
	number("subreaper", int(reaper), nil)
	get("dumpable", unix.SYS_PRCTL, unix.PR_GET_DUMPABLE)
	get("securebits", unix.SYS_PRCTL, unix.PR_GET_SECUREBITS)
	get("keepcaps", unix.SYS_PRCTL, unix.PR_GET_KEEPCAPS)
	get("timerslack", unix.SYS_PRCTL, unix.PR_GET_TIMERSLACK)
	get("thp_disable", unix.SYS_PRCTL, unix.PR_GET_THP_DISABLE)
	get("mdwe", unix.SYS_PRCTL, unix.PR_GET_MDWE)
	keyring(pair)
	terminal(pair)
}

func keyring(pair func(key, value string)) {
	description := make([]byte, 256)
	n, _, errno := unix.Syscall6(unix.SYS_KEYCTL, unix.KEYCTL_DESCRIBE, ^uintptr(2), // the session's, -3
		uintptr(unsafe.Pointer(&description[0])), uintptr(len(description)), 0, 0)
	if errno != 0 {
		pair("keyring", "("+name(errno)+")")
		return
	}
	pair("keyring", string(bytes.TrimRight(description[:min(int(n), len(description))], "\x00")))
}

func terminal(pair func(key, value string)) {
	size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil {
		pair("winsize", "("+name(err)+")")
	} else {
		pair("winsize", strconv.Itoa(int(size.Col))+"x"+strconv.Itoa(int(size.Row)))
	}
	fd, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	pair("controlling", name(err))
	if termios, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		pair("termios", strconv.FormatUint(uint64(termios.Iflag), 8)+" "+strconv.FormatUint(uint64(termios.Oflag), 8)+
			" "+strconv.FormatUint(uint64(termios.Lflag), 8))
		var st unix.Stat_t
		if unix.Fstat(0, &st) == nil {
			pair("terminal", owner(&st))
		}
	}
}

func namespaces(o *out) {
	o.section("ns")
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts"} {
		o.line(ns + " " + readlink("/proc/self/ns/"+ns))
	}
}

// tree lists a directory and those in it.
func tree(o *out, dir string, depth int) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		o.line(dir + " (" + name(err) + ")")
		return
	}
	all := names(fd)
	unix.Close(fd)
	for _, entry := range all {
		path := dir + "/" + entry
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			o.line(path + " (" + name(err) + ")")
			continue
		}
		line := path + " " + owner(&st)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			line += " -> " + readlink(path)
		case unix.S_IFCHR, unix.S_IFBLK:
			line += " " + strconv.Itoa(int(unix.Major(st.Rdev))) + ":" + strconv.Itoa(int(unix.Minor(st.Rdev)))
		}
		o.line(line)
		if st.Mode&unix.S_IFMT == unix.S_IFDIR && depth < 2 {
			tree(o, path, depth+1)
		}
	}
}

// owner is the mode and the owner of a file.
func owner(st *unix.Stat_t) string {
	return strconv.FormatUint(uint64(st.Mode), 8) + " " + strconv.Itoa(int(st.Uid)) + ":" + strconv.Itoa(int(st.Gid))
}

// list prints the names in a directory.
func list(o *out, dir string) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		o.line("(" + name(err) + ")")
		return
	}
	defer unix.Close(fd)
	for _, entry := range names(fd) {
		o.line(entry)
	}
}
