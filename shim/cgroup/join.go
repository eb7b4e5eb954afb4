package cgroup

import (
	"os"
	"path/filepath"
)

// Tasks opens, in every v1 hierarchy, the file by which a thread enters the cgroup by
// itself: the one that writes "0" to it. That needs no lock but cgroup_mutex
// (kernel/cgroup/cgroup.c, cgroup_procs_write_start), so it has none of the wait that
// [Cgroup.Add] may mean. For a process about to execve(2) it is enough that its main
// thread enters: the others end there. Into the v2 hierarchy it is best born
// ([Cgroup.Dir]); on pure v2 there are no files. The files are the caller's, also with an
// error, which wraps ErrNotFound when the cgroup is gone.
func (c *Cgroup) Tasks() (files []*os.File, err error) {
	for _, m := range c.dirs {
		if m.subsystem == "" {
			continue
		}
		f, err := os.OpenFile(filepath.Join(m.dir, "tasks"), os.O_WRONLY, 0)
		if err != nil {
			return files, classify(err)
		}
		files = append(files, f)
	}
	return files, nil
}
