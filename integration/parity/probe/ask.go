package main

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ask answers one question of the arguments in a section of its own.
func ask(o *out, what, rest string) {
	o.section(what + ":" + rest)
	switch what {
	case "read":
		o.line(read(rest))
	case "write":
		o.line(write(rest))
	case "exec":
		o.line(run(rest))
	case "cat":
		for _, l := range strings.Split(strings.TrimSuffix(cat(rest), "\n"), "\n") {
			o.line(l)
		}
	case "cgroup":
		hierarchy, file, _ := strings.Cut(rest, "/")
		o.line(strings.TrimSpace(cat("/cg/" + hierarchy + ownCgroup(hierarchy) + "/" + file)))
	case "sys":
		o.line(try(rest))
	default:
		o.line("the probe does not know this question")
	}
}

// read opens a file and reads of it, or a directory and counts its entries.
func read(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "lstat " + name(err)
	}
	kind := owner(&st)
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		kind += " -> " + readlink(path)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return kind + " open " + name(err)
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &st); err != nil {
		return kind + " fstat " + name(err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if len(names(fd)) == 0 {
			return kind + " empty directory"
		}
		return kind + " directory"
	}
	n, err := unix.Read(fd, make([]byte, 64))
	if err != nil {
		return kind + " read " + name(err)
	}
	if n == 0 {
		return kind + " empty"
	}
	return kind + " has text"
}

// write opens a file for writing, but writes nothing; in a directory it makes a file.
func write(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "stat " + name(err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		fd, err := unix.Open(path+"/probe-made", unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o666)
		if err != nil {
			return "create " + name(err)
		}
		var made unix.Stat_t
		unix.Fstat(fd, &made)
		unix.Close(fd)
		unix.Unlink(path + "/probe-made")
		return "created " + owner(&made)
	}
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == nil {
		unix.Close(fd)
	}
	return "open " + name(err)
}

// run executes a program and tells how it ended.
func run(path string) string {
	pid, err := forkExec(path)
	if err != nil {
		return "exec " + name(err)
	}
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
			break
		}
	}
	if status.Signaled() {
		return "signal " + strconv.Itoa(int(status.Signal()))
	}
	return "exit " + strconv.Itoa(status.ExitStatus())
}

// ownCgroup is the path of this process in a hierarchy of cgroup v1; "unified" is v2.
func ownCgroup(hierarchy string) string {
	for _, l := range strings.Split(cat("/proc/self/cgroup"), "\n") {
		parts := strings.SplitN(l, ":", 3)
		if len(parts) != 3 {
			continue
		}
		if hierarchy == "unified" && parts[1] == "" {
			return parts[2]
		}
		for _, controller := range strings.Split(parts[1], ",") {
			if controller == hierarchy {
				return parts[2]
			}
		}
	}
	return ""
}

// hook appends to file what a hook gets: its arguments, environment, working directory,
// namespaces and the state on standard input. An argument exit:N ends it so.
func hook(o *out, file string, args []string) {
	o.section("hook " + strings.Join(args, " "))
	o.line("environ " + strconv.Quote(cat("/proc/self/environ")))
	buffer := make([]byte, 4096)
	if n, err := unix.Getcwd(buffer); err == nil {
		o.line("cwd " + string(buffer[:n-1]))
	}
	o.line("root " + readlink("/proc/self/root"))
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		o.line("ns " + ns + " " + readlink("/proc/self/ns/"+ns))
	}
	for _, l := range strings.Split(cat("/proc/self/status"), "\n") {
		if strings.HasPrefix(l, "Cap") || strings.HasPrefix(l, "Uid") || strings.HasPrefix(l, "NoNewPrivs") || strings.HasPrefix(l, "Seccomp:") {
			o.line(l)
		}
	}
	o.line("state " + string(readAll(0)))
	fd, err := unix.Open(file, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC, 0o666)
	if err == nil {
		o.write(fd)
		unix.Close(fd)
	}
	for _, arg := range args {
		if code, ok := strings.CutPrefix(arg, "exit:"); ok {
			unix.Write(2, []byte("the hook was told to fail\n"))
			n, _ := strconv.Atoi(code)
			unix.Exit(n)
		}
		if arg == "hang" {
			unix.Pause()
		}
	}
	unix.Exit(0)
}
