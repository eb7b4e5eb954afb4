package harness

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/internal/netlab"
)

// Debian is where Debian's parts are unpacked.
type Debian string

// FindDebian finds the parts, and the reference CNI plugins among them.
func FindDebian(cache string) (Debian, error) {
	d := Debian(filepath.Join(cache, "debian"))
	if _, err := lookPath("bridge", d.CNI()); err != nil {
		return "", err
	}
	return d, nil
}

// CNI is the directory of the reference plugins.
func (d Debian) CNI() string { return filepath.Join(string(d), "usr/lib/cni") }

// Env is what the parts find each other by.
func (d Debian) Env() []string {
	var path, libraries []string
	for _, dir := range []string{"usr/sbin", "usr/bin", "sbin", "bin"} {
		path = append(path, filepath.Join(string(d), dir))
	}
	for _, dir := range []string{"usr/lib", "lib"} {
		found, _ := filepath.Glob(filepath.Join(string(d), dir, "*-linux-*")) // fails for a bad pattern only
		libraries = append(libraries, found...)
	}
	env := []string{
		"PATH=" + strings.Join(append(path, "/usr/sbin", "/usr/bin", "/sbin", "/bin"), ":"),
		"LD_LIBRARY_PATH=" + strings.Join(libraries, ":"),
	}
	if tables, _ := filepath.Glob(filepath.Join(string(d), "usr/lib/*-linux-*/xtables")); len(tables) > 0 {
		env = append(env, "XTABLES_LIBDIR="+tables[0])
	}
	return env
}

// CNI is a plugin of CNI, with a configuration, as a runtime on a node executes it.
type CNI struct {
	Node    *netlab.NS
	Program string
	Conf    []byte
	Env     []string // all, but for CNI's own
	Path    string   // CNI_PATH
}

// Run executes the plugin for a container's interface eth0. It returns what it printed
// and how long it took from before its start to its end.
func (p CNI) Run(ctx context.Context, command, id string, container *netlab.NS) (output []byte, took time.Duration, err error) {
	cmd := exec.CommandContext(ctx, p.Program)
	cmd.Env = slices.Concat(p.Env, cniEnv(command, id, container.Path(), p.Path))
	cmd.Stdin = bytes.NewReader(p.Conf)
	var out, diagnostics bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diagnostics
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // a terminal's ^C is for the caller
	err = p.Node.Do(func() error {
		began := time.Now()
		err := cmd.Run()
		took = time.Since(began)
		return err
	})
	if err != nil {
		err = fmt.Errorf("%s by %s: %w: %s", command, filepath.Base(p.Program), err, bytes.TrimSpace(append(out.Bytes(), diagnostics.Bytes()...)))
	}
	return out.Bytes(), took, err
}

func cniEnv(command, id, netns, path string) []string {
	return []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + netns, "CNI_IFNAME=eth0", "CNI_PATH=" + path}
}

// cniExec executes plugins for libcni on a node.
type cniExec struct {
	invoke.RawExec
	version.PluginDecoder
	node *netlab.NS
	env  []string
}

// ExecPlugin implements invoke.Exec.
func (e *cniExec) ExecPlugin(ctx context.Context, program string, stdin []byte, environ []string) (output []byte, err error) {
	err = e.node.Do(func() (err error) {
		output, err = e.RawExec.ExecPlugin(ctx, program, stdin, slices.Concat(environ, e.env))
		return err
	})
	return output, err
}
