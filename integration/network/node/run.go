package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/peregrine-dev/peregrine/netplugin/agent"
	"github.com/peregrine-dev/peregrine/netplugin/protocol"
)

// stockEnv is what the programs of `make stock` find their parts by; see
// integration/tools/build.sh.
func (n *Node) stockEnv() []string {
	var dirs, libraries []string
	for _, dir := range []string{"usr/sbin", "usr/bin", "sbin", "bin", "usr/lib/cni"} {
		dirs = append(dirs, filepath.Join(n.Stock, dir))
	}
	for _, pattern := range []string{"usr/lib/*-linux-gnu", "lib/*-linux-gnu"} {
		found, _ := filepath.Glob(filepath.Join(n.Stock, pattern))
		libraries = append(libraries, found...)
	}
	env := []string{
		"PATH=" + strings.Join(append(dirs, os.Getenv("PATH")), ":"),
		"LD_LIBRARY_PATH=" + strings.Join(libraries, ":"),
	}
	if len(libraries) > 0 {
		env = append(env, "XTABLES_LIBDIR="+filepath.Join(libraries[0], "xtables"))
	}
	return env
}

// Run runs a program inside the node's namespace, by its path or, as nft and iptables, of
// `make stock`. The output is both standard ones together.
func (n *Node) Run(program string, args ...string) (string, error) {
	if !strings.Contains(program, "/") {
		for _, dir := range []string{"usr/sbin", "usr/bin"} {
			path := filepath.Join(n.Stock, dir, program)
			if _, err := os.Stat(path); err == nil {
				program = path
				break
			}
		}
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(append(os.Environ(), n.stockEnv()...), n.env()...)
	var out []byte
	var err error
	n.NS.Do(func() { out, err = cmd.CombinedOutput() })
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// Falcond runs a command of falcond, as status.
func (n *Node) Falcond(args ...string) (string, error) {
	return n.Run(filepath.Join(n.Bin, "falcond"), args...)
}

// Exec runs falcon as a runtime does, with CNI's variables in env and config on its
// standard input. It returns what falcon printed and whether it succeeded. The error is
// that falcon could not be run or that ctx, which kills it, was done.
func (n *Node) Exec(ctx context.Context, env []string, config []byte) (out []byte, ok bool, err error) {
	cmd := exec.CommandContext(ctx, filepath.Join(n.Bin, "falcon"))
	cmd.Env = append(append([]string{"PATH=" + os.Getenv("PATH")}, n.env()...), env...)
	cmd.Stdin = bytes.NewReader(config)
	n.NS.Do(func() { out, err = cmd.Output() })
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.Exited() {
		if len(ended.Stderr) > 0 {
			return out, false, fmt.Errorf("falcon wrote to standard error: %s", ended.Stderr)
		}
		return out, false, nil
	}
	return out, err == nil, err
}

// ask gets the agent's report.
func ask(root string) (report agent.Report, err error) {
	request := protocol.Encode([]string{"CNI_COMMAND=" + protocol.Report}, nil)
	output, ok, err := protocol.Call(filepath.Join(root, protocol.Socket), request, -1)
	if err != nil {
		return report, err
	}
	if !ok {
		return report, fmt.Errorf("falcond: %s", output)
	}
	return report, json.Unmarshal(output, &report)
}
