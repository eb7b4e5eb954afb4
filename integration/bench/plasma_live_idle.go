package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/model"
)

// Megabytes is the unit of memory of a whole process.
var Megabytes = Unit{"MB", false}

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

// crowd is how many containers there are when plasmad has nothing to do.
const crowd = 100

// idle measures what plasmad uses while nothing happens.
func (b *plasmaBench) idle(ctx context.Context) error {
	for _, of := range []struct {
		suffix, command, note string
	}{
		{"", "/bin/sleep 100000", "containers that know nothing of actors"},
		{"/hosts", "/app/plasma-app", "containers whose hosts report each second"},
	} {
		if b.Quick && of.suffix != "" {
			continue
		}
		if err := b.idleWith(ctx, of.suffix, of.command, of.note); err != nil {
			return err
		}
	}
	return nil
}

func (b *plasmaBench) idleWith(ctx context.Context, suffix, command, note string) (err error) {
	l, err := b.startLive(ctx, 1, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close(ctx)) }()
	b.Progress("starting many containers", 0, 0)
	if err := l.apply(ctx, "crowd", "", command, fmt.Sprintf("[servers]\nmin = %d\nmax = %[1]d\n", crowd)); err != nil {
		return err
	}
	if err := l.until(ctx, "all containers run", func() error {
		s, err := l.service(ctx, "crowd")
		if err != nil {
			return err
		}
		up := 0
		for _, v := range s.Servers {
			if v.State == model.Up {
				up++
			}
		}
		if up < crowd {
			return fmt.Errorf("%d of %d are up", up, len(s.Servers))
		}
		return nil
	}); err != nil {
		return err
	}
	// What was needed to start them is given back to the system in time.
	samples, each := 20, time.Second
	if b.Quick {
		samples = 5
	}
	var memory, cpu Series
	pid := l.Nodes[0].Pid
	for range samples {
		began, before, err := usedBy(pid)
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(each):
		}
		ended, after, err := usedBy(pid)
		if err != nil {
			return err
		}
		kib, err := procNumber(fmt.Sprintf("/proc/%d/status", pid), "VmRSS")
		if err != nil {
			return err
		}
		cpu = append(cpu, 100*(after-before).Seconds()/ended.Sub(began).Seconds())
		memory = append(memory, float64(kib)/1000)
	}
	note = fmt.Sprintf("one node with %d %s; its member of etcd is in it", crowd, note)
	b.against("plasmad-memory"+suffix, Megabytes, memory, 60, note)
	b.against("plasmad-idle-cpu"+suffix, Percent, Series{cpu.mean()}, 1, note+fmt.Sprintf("; of a core, over %d s", samples))
	return nil
}
