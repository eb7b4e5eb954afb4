package ipam

import (
	"context"
	"fmt"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// patience is how long an executed plugin may take. Whoever waits for it keeps other calls
// for the same container waiting, those too that are to end it.
const patience = 2 * time.Minute

// execAdd executes the plugin for ADD.
func (r Request) execAdd(ctx context.Context, c conf) (*types100.Result, error) {
	plugin, err := r.find(c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	got, err := invoke.ExecPluginWithResult(ctx, plugin, r.Config, r.args("ADD"), &executor{})
	if err != nil {
		return nil, executed(ctx, c, err)
	}
	result, err := types100.NewResultFromResult(got)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("result of IPAM plugin %s: %v", c.IPAM.Type, err), "")
	}
	return result, nil
}

// exec executes the plugin for what has no result.
func (r Request) exec(ctx context.Context, c conf, command string, config []byte) error {
	plugin, err := r.find(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return executed(ctx, c, invoke.ExecPluginWithoutResult(ctx, plugin, config, r.args(command), &executor{}))
}

func (r Request) find(c conf) (string, error) {
	plugin, err := invoke.FindInPath(c.IPAM.Type, r.Path)
	if err != nil {
		return "", types.NewError(types.ErrInternal, fmt.Sprintf("IPAM plugin %s: %v", c.IPAM.Type, err), "install it to a directory of CNI_PATH, or set another ipam.type")
	}
	return plugin, nil
}

// args are the plugin's CNI environment; the rest is this process'.
func (r Request) args(command string) *invoke.Args {
	return &invoke.Args{
		Command: command, ContainerID: r.ContainerID, NetNS: r.NetNS,
		PluginArgsStr: r.Args, IfName: r.IfName, Path: r.searchPath(),
	}
}

func executed(ctx context.Context, c conf, err error) error {
	if err == nil {
		return nil
	}
	if stopped := ctx.Err(); stopped != nil {
		return fmt.Errorf("IPAM plugin %s was stopped: %w", c.IPAM.Type, stopped)
	}
	return coded(err)
}
