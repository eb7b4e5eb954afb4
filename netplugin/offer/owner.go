package offer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// use is what is known of who has an offer that was taken.
type use struct {
	owned   bool          // the owner lives
	bundle  bool          // it is known whose bundle the offer is for
	gone    bool          // and that isn't there any more
	without time.Duration // how long the offer has been seen with neither owner nor bundle
}

// abandoned is the rule by which an offer in taken is the Keeper's. Between taking an
// offer and writing down who has it is no time at all, unless the shim died there.
func (u use) abandoned(patience time.Duration) bool {
	switch {
	case u.owned:
		return false
	case u.bundle:
		return u.gone
	default:
		return u.without >= patience
	}
}

// inspectUse finds out who has an offer. After an error nothing is known: it says
// nothing against the owner.
func inspectUse(dir string) (use, error) {
	var u use
	text, err := os.ReadFile(filepath.Join(dir, ownerFile))
	if err != nil && !isGone(err) {
		return u, err
	}
	if pid, start, ok := parseOwner(string(text)); ok {
		if u.owned, err = isAlive(pid, start); u.owned || err != nil {
			return u, err
		}
	}
	text, err = os.ReadFile(filepath.Join(dir, containerFile))
	if err != nil && !isGone(err) {
		return u, err
	}
	bundle, ok := parseBundle(text)
	if !ok {
		return u, nil
	}
	u.bundle = true
	_, err = os.Lstat(bundle)
	u.gone = isGone(err)
	if err != nil && !u.gone {
		return u, err
	}
	return u, nil
}

// isGone tells whether an error says that a file isn't there. A plain file in the place
// of an offer has no files in it either.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}

// parseOwner reads "PID STARTTIME"; anything else, such as a file that isn't written yet,
// is no owner.
func parseOwner(text string) (pid int, start uint64, ok bool) {
	first, second, _ := strings.Cut(strings.TrimSuffix(text, "\n"), " ")
	pid, err := strconv.Atoi(first)
	if err != nil || pid <= 0 {
		return 0, 0, false
	}
	start, err = strconv.ParseUint(second, 10, 64)
	return pid, start, err == nil
}

// parseBundle reads the path of the bundle from a container.json.
func parseBundle(text []byte) (string, bool) {
	var c struct {
		Bundle string `json:"bundle"`
	}
	if err := json.Unmarshal(text, &c); err != nil || !filepath.IsAbs(c.Bundle) {
		return "", false
	}
	return c.Bundle, true
}

// isAlive tells whether the process that began at start, in clock ticks since boot, is
// running. A zombie is not.
func isAlive(pid int, start uint64) (bool, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	state, began, err := parseStat(text)
	return err == nil && state != "Z" && state != "X" && began == start, err
}

// parseStat takes the state and the start time, fields 3 and 22, from a /proc/PID/stat,
// see proc_pid_stat(5).
func parseStat(text []byte) (state string, start uint64, err error) {
	// The name, in parentheses, may have anything in it.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 20 {
		return "", 0, fmt.Errorf("read the start time of a process: want 22 fields or more, got %q", text)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return fields[0], start, err
}
