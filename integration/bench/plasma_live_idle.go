package bench

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// pid is the process of a server on the first node.
func (l *plasmaLive) pid(ctx context.Context, server string) (int, error) {
	client, err := l.Nodes[0].Containerd.Client()
	if err != nil {
		return 0, err
	}
	defer client.Close()
	c, err := client.LoadContainer(ctx, server)
	if err != nil {
		return 0, err
	}
	task, err := c.Task(ctx, nil)
	if err != nil {
		return 0, err
	}
	return int(task.Pid()), nil
}

// usedBy is what a process has used of processors, and when that was read.
func usedBy(pid int) (time.Time, time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	now := time.Now()
	if err != nil {
		return now, 0, err
	}
	// After the name in brackets, which may have blanks: state, 10 others, user and system time.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return now, 0, fmt.Errorf("process %d has %d figures", pid, len(fields))
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return now, 0, err
		}
		ticks += n
	}
	const tick = 10 * time.Millisecond
	return now, time.Duration(ticks) * tick, nil
}
