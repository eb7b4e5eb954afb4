package cgroup

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// number reads a file that is one number.
func number(text []byte) (uint64, error) {
	n, ok := decimal(bytes.TrimSpace(text))
	if !ok {
		return 0, fmt.Errorf("%q is no number: %w", excerpt(text), errdefs.ErrInvalidArgument)
	}
	return n, nil
}

// fields reads a file of lines "NAME NUMBER": those that are named, into values. It tells
// whether it found all of them.
func fields(text []byte, names []string, values []uint64) bool {
	left := len(names)
	for len(text) > 0 && left > 0 {
		line := text
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			line, text = text[:i], text[i+1:]
		} else {
			text = nil
		}
		space := bytes.IndexByte(line, ' ')
		if space < 0 {
			continue
		}
		for i, name := range names {
			if string(line[:space]) != name {
				continue
			}
			if n, ok := decimal(line[space+1:]); ok {
				values[i] = n
				left--
			}
		}
	}
	return left == 0
}

// traffic reads net/dev: the bytes that all interfaces but lo have received and sent.
func traffic(text []byte) (sum uint64) {
	for line := range bytes.Lines(text) {
		name, counts, ok := bytes.Cut(line, []byte(":"))
		if !ok || string(bytes.TrimSpace(name)) == "lo" {
			continue
		}
		column := 0
		for f := range bytes.FieldsSeq(counts) {
			if column == 0 || column == 8 {
				n, ok := decimal(f)
				if !ok {
					break
				}
				sum += n
			}
			column++
		}
	}
	return sum
}

// decimal is strconv.ParseUint without the string.
func decimal(text []byte) (n uint64, ok bool) {
	for _, c := range text {
		if c < '0' || c > '9' || n > (math.MaxUint64-9)/10 {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, len(text) > 0
}

// membership reads /proc/PID/cgroup: where a process is by controller, and in the unified
// hierarchy under "".
func membership(text string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 || !strings.HasPrefix(parts[2], "/") {
			continue
		}
		if _, err := strconv.ParseUint(parts[0], 10, 32); err != nil {
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			found[controller] = parts[2]
		}
	}
	return found
}

// within gives the part of a process's path that ends with the cgroup asked for: the process
// may be in one below, and all of them in one above that its spec knows nothing of.
func within(path, cgroup string) (string, bool) {
	cgroup = strings.Trim(cgroup, "/")
	if cgroup == "" {
		return path, true
	}
	i := strings.Index(path+"/", "/"+cgroup+"/")
	if i < 0 {
		return "", false
	}
	return path[:i+1+len(cgroup)], true
}

func excerpt(text []byte) []byte { return text[:min(len(text), 40)] }
