// Task-client asks of containerd what ctr has no verb for, in the smoke tests:
//
//	task-client update CONTAINER RESOURCES   change the limits of what runs;
//	                                         RESOURCES is linux.resources of a spec, in JSON
//	task-client restore CONTAINER IMAGE      start a container that was only created from
//	                                         the checkpoint in an image
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "task-client:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("%d arguments, want three", len(args))
	}
	client, err := containerd.New(defaults.DefaultAddress, containerd.WithDefaultNamespace("default"))
	if err != nil {
		return err
	}
	defer client.Close()
	container, err := client.LoadContainer(ctx, args[1])
	if err != nil {
		return err
	}
	switch args[0] {
	case "update":
		return update(ctx, container, args[2])
	case "restore":
		return restore(ctx, client, container, args[2])
	}
	return fmt.Errorf("no verb %q", args[0])
}

func update(ctx context.Context, container containerd.Container, text string) error {
	var resources specs.LinuxResources
	if err := json.Unmarshal([]byte(text), &resources); err != nil {
		return fmt.Errorf("decode the resources: %w", err)
	}
	task, err := container.Task(ctx, nil)
	if err != nil {
		return err
	}
	return task.Update(ctx, containerd.WithResources(&resources))
}

func restore(ctx context.Context, client *containerd.Client, container containerd.Container, name string) error {
	checkpoint, err := client.GetImage(ctx, name)
	if err != nil {
		return err
	}
	task, err := container.NewTask(ctx, cio.NullIO, containerd.WithTaskCheckpoint(checkpoint))
	if err != nil {
		return err
	}
	return task.Start(ctx)
}
