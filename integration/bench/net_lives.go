package bench

import (
	"context"
	"fmt"
	"time"
)

// lives attaches and detaches a container by each plugin.
func (b *netBench) lives(ctx context.Context, s samples, round int) error {
	if round == 0 { // the first makes the bridge, and reads the programs from the disk
		for range 2 {
			if err := b.everyLife(ctx, samples{}, 0); err != nil {
				return err
			}
		}
	}
	return b.everyLife(ctx, s, round)
}

func (b *netBench) everyLife(ctx context.Context, s samples, round int) error {
	for _, name := range turn(round, []string{falcon, falconAPI, bridge, unmasked}) {
		if err := b.life(ctx, name, s); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// life attaches a container and detaches it.
func (b *netBench) life(ctx context.Context, name string, s samples) error {
	id := b.id()
	container, err := b.node()
	if err != nil {
		return err
	}
	if err := b.calm(); err != nil {
		return err
	}
	call := func(command string) (time.Duration, error) {
		_, took, err := b.plugin(name).Run(ctx, command, id, container)
		return took, err
	}
	if name == falconAPI {
		call = func(command string) (time.Duration, error) {
			_, took, err := b.near.Call(command, id, b.conf[falcon], container.File(), container.Path())
			return took, err
		}
	}
	for _, command := range []string{"ADD", "DEL"} {
		took, err := call(command)
		if err != nil {
			return err
		}
		s.add(command, name, milliseconds(took))
	}
	if name == bridge || name == unmasked {
		return nil
	}
	took, err := gone(ctx, b.near.Node, id)
	s.add("gone", name, milliseconds(took))
	return err
}
