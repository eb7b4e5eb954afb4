package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/host"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// maxTimes is how many calls' times fit into an answer.
const maxTimes = 1 << 16

// probe calls other actors and takes the time.
type probe struct{}

// Turn does nothing for echo, tells the server's name for where, and for times and flood calls the
// actor "TYPE KEY FUNCTION", so often and for so many milliseconds at most, so often a second or 0
// for as often as it can. times answers with each call's begin and length, flood with their number.
func (probe) Turn(c *host.Turn, function string, body []byte) ([]byte, error) {
	switch function {
	case "echo":
		return nil, nil
	case "where":
		return []byte(os.Getenv("PLASMA_SERVER")), nil
	}
	var to placement.Actor
	var call string
	var most, millis, rate int64
	if _, err := fmt.Sscan(string(body), &to.Type, &to.Key, &call, &most, &millis, &rate); err != nil {
		return nil, err
	}
	var times []byte
	var n int64
	begin := time.Now()
	end := begin.Add(time.Duration(millis) * time.Millisecond)
	for now := begin; n < most && now.Before(end); n++ {
		if rate > 0 {
			// Several at once where a pause between them would be shorter than one can be.
			if ahead := time.Duration(n)*time.Second/time.Duration(rate) - now.Sub(begin); ahead > time.Millisecond {
				time.Sleep(ahead) // it is the load
				now = time.Now()
			}
		}
		if _, err := c.Call(c, to, call, nil); err != nil {
			return nil, err
		}
		after := time.Now()
		if function == "times" && n < maxTimes {
			times = binary.LittleEndian.AppendUint64(times, uint64(now.UnixNano()))
			times = binary.LittleEndian.AppendUint32(times, uint32(after.Sub(now)))
		}
		now = after
	}
	if function == "times" {
		return times, nil
	}
	return fmt.Append(nil, n), nil
}

// Save is host.Behavior's: there is nothing to keep.
func (probe) Save() ([]byte, error) { return nil, nil }

// Load is host.Behavior's.
func (probe) Load([]byte) error { return nil }
