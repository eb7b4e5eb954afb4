package parity

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Known is what is known about a run, to replace names that are new each time.
type Known struct {
	ID   string            // of the container
	Text map[string]string // by texts that stand for others
	// Namespaces are names of namespaces by their links, such as net:[4026531840].
	Namespaces map[string]string
}

// Parse reads the sections that the probe printed. Text before the first has the section
// first.
func Parse(text, first string) Facts {
	facts := Facts{}
	section := first
	text = strings.ReplaceAll(text, "\r\n", "\n") // a terminal's
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if name, ok := strings.CutPrefix(line, "["); ok && strings.HasSuffix(name, "]") {
			section = strings.TrimSuffix(name, "]")
			// Hooks of one kind may have equal names.
			if _, twice := facts[section]; twice {
				section += "'"
			}
			facts[section] = []string{}
			continue
		}
		if section == first && line == "" && len(facts[first]) == 0 {
			continue
		}
		facts[section] = append(facts[section], line)
	}
	return facts
}

// Normalise replaces what can't be equal in two runs.
func Normalise(facts Facts, known Known) Facts {
	normal := Facts{}
	for section, lines := range facts {
		lines = known.names(lines)
		kind, _, _ := strings.Cut(section, " ")
		switch kind = strings.TrimRight(kind, "'"); kind {
		case "status", "raw-status":
			lines = status(lines, kind == "raw-status")
		case "mountinfo":
			lines = mountinfo(lines)
		case "fds", "raw-fds":
			lines = each(lines, descriptor)
		case "process":
			lines = each(lines, pids)
		case "ns":
			lines = each(lines, known.namespace)
		case "stderr":
			lines = crash(lines)
		case "dev":
			lines = each(lines, device)
		case "hook":
			lines = each(lines, known.hook)
		}
		normal[section] = lines
	}
	return normal
}

func each(lines []string, change func(string) string) []string {
	changed := make([]string, len(lines))
	for i, line := range lines {
		changed[i] = change(line)
	}
	return changed
}

var snapshot = regexp.MustCompile(`snapshots/[0-9]+`)

// names replaces the container's id, its place and numbers of snapshots.
func (k Known) names(lines []string) []string {
	var pairs []string
	for from, to := range k.Text {
		pairs = append(pairs, from, to)
	}
	if k.ID != "" {
		pairs = append(pairs, k.ID, "ID")
	}
	replace := strings.NewReplacer(pairs...)
	return each(lines, func(line string) string {
		return snapshot.ReplaceAllString(replace.Replace(line), "snapshots/N")
	})
}

// statusKeys are the lines of /proc/PID/status that a runtime decides about.
var statusKeys = []string{
	"Umask", "Uid", "Gid", "Groups", "NStgid", "NSpid", "NSpgid", "NSsid", "TracerPid",
	"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters",
	"CoreDumping", "THP_enabled", "Speculation_Store_Bypass", "SpeculationIndirectBranch",
	"Cpus_allowed_list", "Mems_allowed_list",
}

// signalKeys are those that Go's own signal handling spoils in the probe.
var signalKeys = []string{"SigBlk", "SigIgn", "SigCgt", "ShdPnd", "SigPnd", "Threads"}

func status(lines []string, raw bool) []string {
	var kept []string
	for _, line := range lines {
		key, value, _ := strings.Cut(line, ":")
		if !slices.Contains(statusKeys, key) && (!raw || !slices.Contains(signalKeys, key)) {
			continue
		}
		if strings.HasPrefix(key, "NS") || key == "TracerPid" {
			value = each([]string{value}, small)[0]
		}
		kept = append(kept, key+": "+strings.TrimSpace(value))
	}
	return kept
}

var number = regexp.MustCompile(`[0-9]+`)

// small keeps the process ids 0 and 1, which mean something, and replaces others.
func small(s string) string {
	return number.ReplaceAllStringFunc(s, func(n string) string {
		if n == "0" || n == "1" {
			return n
		}
		return "N"
	})
}

// pids replaces process ids among the attributes of a process.
func pids(line string) string {
	key, value, _ := strings.Cut(line, " ")
	if slices.Contains([]string{"pid", "ppid", "sid", "pgrp"}, key) {
		value = small(value)
	}
	return key + " " + value
}

var inode = regexp.MustCompile(`:\[[0-9]+\]`)

// descriptor replaces the inode numbers of pipes and sockets, and leaves out the flags
// O_LARGEFILE and O_CLOEXEC of the one who opened a file: they have no effect later on.
func descriptor(line string) string {
	line = inode.ReplaceAllString(line, "")
	if strings.Contains(line, " /dev/null ") {
		return line[:strings.LastIndexByte(line, ' ')] // reading and writing are the same
	}
	cut := strings.LastIndexByte(line, ' ')
	if flags, err := strconv.ParseUint(line[cut+1:], 8, 64); err == nil && cut > 0 {
		line = line[:cut+1] + strconv.FormatUint(flags&^(0o100000|0o2000000), 8)
	}
	return line
}

var terminals = regexp.MustCompile(`^(/dev/pts/)[0-9]+`)

func device(line string) string { return terminals.ReplaceAllString(line, "${1}N") }

// crash keeps the first line of what Go says about a signal that ended the probe.
func crash(lines []string) []string {
	if len(lines) > 0 && strings.HasPrefix(lines[0], "SIG") {
		return lines[:1]
	}
	return lines
}

// namespace says whose a namespace is.
func (k Known) namespace(line string) string {
	which, link, _ := strings.Cut(line, " ")
	switch name, ok := k.Namespaces[link]; {
	case ok:
		return which + " " + name
	case strings.HasPrefix(link, "("):
		return which + " " + link
	default:
		return which + " own"
	}
}

// hook replaces what is new each time in what a hook was told.
func (k Known) hook(line string) string {
	kind, rest, _ := strings.Cut(line, " ")
	switch kind {
	case "ns":
		return "ns " + k.namespace(rest)
	case "state":
		return "state " + state(rest)
	}
	return line
}

// state is the container's state that a hook gets, without its process id and the version
// of the specification, which is the runtime's own.
func state(text string) string {
	var s map[string]any
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return "is not JSON: " + text
	}
	if pid, ok := s["pid"].(float64); ok && pid > 1 {
		s["pid"] = "N"
	}
	if _, ok := s["ociVersion"].(string); ok {
		s["ociVersion"] = "V"
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(s); err != nil {
		return err.Error()
	}
	return strings.TrimSpace(out.String())
}

// mountLine is a line of /proc/PID/mountinfo.
type mountLine struct {
	id, parent                   string
	root, point, options         string
	propagation                  []string
	fstype, source, superOptions string
}

func parseMount(line string) (mountLine, error) {
	before, after, ok := strings.Cut(line, " - ")
	fields, tail := strings.Fields(before), strings.Fields(after)
	if !ok || len(fields) < 6 || len(tail) < 2 {
		return mountLine{}, fmt.Errorf("%q is not a line of mountinfo", line)
	}
	m := mountLine{
		id: fields[0], parent: fields[1], root: fields[3], point: fields[4], options: fields[5],
		propagation: fields[6:], fstype: tail[0], source: tail[1],
	}
	if len(tail) > 2 {
		m.superOptions = tail[2]
	}
	return m, nil
}

var lowerdirs = regexp.MustCompile(`,lowerdir\+=`)

// simplify makes equal what no process can tell from what else it sees: whose null device
// lies over a masked file, by which system call an overlay got its layers and whether the
// kernel gave it an id, and the mode of a tmpfs, which may be changed later as well.
func (m *mountLine) simplify() {
	switch {
	case m.root == "/null" && (m.fstype == "tmpfs" || m.fstype == "devtmpfs"):
		m.fstype, m.source, m.options, m.superOptions = "null", "", "", ""
	case m.fstype == "tmpfs":
		m.superOptions = strings.ReplaceAll(m.superOptions, ",mode=755", "")
	case m.fstype == "overlay":
		m.superOptions = strings.ReplaceAll(m.superOptions, ",uuid=on", "")
		first := true
		m.superOptions = lowerdirs.ReplaceAllStringFunc(m.superOptions, func(string) string {
			if first {
				first = false
				return ",lowerdir="
			}
			return ":"
		})
	}
}

// depth is how many mounts a mount is on.
func depth(id string, parents map[string]string) int {
	n := 0
	for ; n < len(parents); n++ { // a table that goes round in circles ends too
		parent, ok := parents[id]
		if !ok {
			break
		}
		id = parent
	}
	return n
}

// mountinfo leaves out the numbers of mounts and devices, says what each is mounted on,
// and numbers peer groups anew. It sorts by mount point, and what is stacked on one from
// the bottom to the top: in which order they were made nobody can tell otherwise.
func mountinfo(lines []string) []string {
	var mounts []mountLine
	points := map[string]string{}
	for _, line := range lines {
		m, err := parseMount(line)
		if err != nil {
			return lines
		}
		mounts = append(mounts, m)
		points[m.id] = m.point
	}
	parents := map[string]string{}
	for _, m := range mounts {
		parents[m.id] = m.parent
	}
	slices.SortStableFunc(mounts, func(a, b mountLine) int {
		return cmp.Or(strings.Compare(a.point, b.point), cmp.Compare(depth(a.id, parents), depth(b.id, parents)))
	})
	groups := map[string]string{}
	var out []string
	for _, m := range mounts {
		for i, p := range m.propagation {
			kind, id, ok := strings.Cut(p, ":")
			if !ok {
				continue
			}
			if _, ok := groups[id]; !ok {
				groups[id] = strconv.Itoa(len(groups) + 1)
			}
			m.propagation[i] = kind + ":" + groups[id]
		}
		m.simplify()
		on, ok := points[m.parent]
		if !ok {
			on = "?"
		}
		out = append(out, strings.Join([]string{
			m.point, "on", on, "root=" + m.root, m.options,
			"[" + strings.Join(m.propagation, " ") + "]", m.fstype, m.source, m.superOptions,
		}, " "))
	}
	return out
}
