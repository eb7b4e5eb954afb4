package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// record is what a file remembers of the masks that were set.
type record struct {
	Boot   string  `json:"boot"` // the kernel's boot_id: all masks end with it
	Queues []owned `json:"queues"`
}

// owned is a queue whose mask was zero before.
type owned struct {
	NetNS uint64 `json:"netns"`
	Link  string `json:"link"`
	Index int    `json:"ifindex"` // another device of that name has another
	Queue string `json:"queue"`
	// Masks are lists of CPUs: the one that was set, and while it is being changed the one
	// before it, too, so that a kill in between leaves nothing unknown.
	Masks []string `json:"masks"`
}

func readRecord(file string) (record, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return record{}, fmt.Errorf("this boot's number: %w", err)
	}
	empty := record{Boot: strings.TrimSpace(string(boot))}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return record{}, fmt.Errorf("which RPS masks were set: %w", err)
	}
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return record{}, fmt.Errorf("%s is damaged; set the masks below /sys/class/net that aren't yours to 0 and remove it: %w", file, err)
	}
	if r.Boot != empty.Boot {
		return empty, nil
	}
	return r, nil
}

// write replaces the file as a whole, or not at all.
func (r *record) write(file string) error {
	text, err := json.Marshal(r)
	if err == nil {
		if err = os.WriteFile(file+".new", text, 0o600); err == nil {
			err = os.Rename(file+".new", file)
		}
	}
	if err != nil {
		return fmt.Errorf("remember which RPS masks are set: %w", err)
	}
	return nil
}

func (o owned) is(netns uint64, l *link, queue string) bool {
	return o.NetNS == netns && o.Link == l.name && o.Index == l.index && o.Queue == queue
}

// masks are those that were set on a queue.
func (r *record) masks(netns uint64, l *link, queue string) []string {
	if i := slices.IndexFunc(r.Queues, func(o owned) bool { return o.is(netns, l, queue) }); i >= 0 {
		return r.Queues[i].Masks
	}
	return nil
}

// with is a copy in which a queue has these masks; none is not remembered.
func (r *record) with(netns uint64, l *link, queue string, masks ...string) record {
	same := func(o owned) bool { return o.is(netns, l, queue) }
	if len(masks) == 0 {
		return r.without(same)
	}
	c := record{r.Boot, slices.Clone(r.Queues)}
	next := owned{netns, l.name, l.index, queue, masks}
	if i := slices.IndexFunc(c.Queues, same); i >= 0 {
		c.Queues[i] = next
	} else {
		c.Queues = append(c.Queues, next)
	}
	return c
}

func (r *record) without(gone func(owned) bool) record {
	return record{r.Boot, slices.DeleteFunc(slices.Clone(r.Queues), gone)}
}
