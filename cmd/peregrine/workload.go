package main

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"github.com/peregrine-dev/peregrine/integration/workload"
)

// runWorkload is what the demo runs inside a container. It prints nanoseconds.
func runWorkload(c *cli.Context) error {
	var (
		took time.Duration
		err  error
		path = c.Args().Get(1)
	)
	switch name := c.Args().First(); name {
	case "first-write":
		took, err = workload.FirstWrite(path)
	case "untar":
		took, err = workload.Untar(c.Context, path, c.Args().Get(2))
	case "read":
		took, err = workload.SequentialRead(path)
	default:
		err = fmt.Errorf("no workload %q: %w", name, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return err
	}
	fmt.Println(took.Nanoseconds())
	return nil
}
