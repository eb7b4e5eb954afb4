package claim

import "syscall"

// What is counted in every profile.
const (
	Hit  = "hit"  // a ready part was claimed
	Miss = "miss" // nothing was ready: a cold start

	// Fallback is a directory of counters, one per reason. A reason is a word of lower
	// case letters, digits and hyphens: Count(dir, Fallback+"/"+reason).
	Fallback = "fallback"
)

// Count adds one to the counter of a name below stats. dir is the profile's directory. Any number of processes may
// count at the same time: the counter is the size of a file, and appending one byte is
// atomic. Counting is for people; callers go on when it fails.
func Count(dir, name string) error {
	path := dir + "/" + Stats + "/" + name
	fd, err := openCounter(path)
	if err == syscall.ENOENT {
		if err := mkdirAll(parent(path)); err != nil {
			return err
		}
		fd, err = openCounter(path)
	}
	if err != nil {
		return failed("count in", path, err)
	}
	defer syscall.Close(fd)
	if err := writeAll(fd, []byte{'.'}); err != nil {
		return failed("count in", path, err)
	}
	return nil
}

func openCounter(path string) (int, error) {
	return open(path, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_APPEND, 0o600)
}

// Counted returns the value of a counter, 0 for one that never counted.
func Counted(dir, name string) (int64, error) {
	var st syscall.Stat_t
	path := dir + "/" + Stats + "/" + name
	err := syscall.Stat(path, &st)
	if err == syscall.ENOENT {
		return 0, nil
	}
	if err != nil {
		return 0, failed("read the counter", path, err)
	}
	return st.Size, nil
}

// parent is the directory of an absolute path below /.
func parent(path string) string {
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '/' {
			return path[:i]
		}
	}
	return "/"
}
