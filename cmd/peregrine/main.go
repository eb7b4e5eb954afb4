// Command peregrine is the front door of the bundle: it checks what works on a host,
// installs and removes the plugins, shows them and measures them.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/bench"
	"github.com/peregrine-dev/peregrine/integration/demo"
	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/sandbox"
	"github.com/peregrine-dev/peregrine/internal/check"
	"github.com/peregrine-dev/peregrine/internal/install"
	"github.com/peregrine-dev/peregrine/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := app().RunContext(ctx, os.Args)
	stop()
	var exit cli.ExitCoder
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "peregrine:", err)
		os.Exit(1)
	}
}

func app() *cli.App {
	asJSON := &cli.BoolFlag{Name: "json", Usage: "for machines"}
	dryRun := &cli.BoolFlag{Name: "dry-run", Usage: "say what would be done, and do nothing"}
	return &cli.App{
		Name:            "peregrine",
		Usage:           "plugins for containerd",
		Version:         version.Version,
		HideHelpCommand: true,
		ExitErrHandler:  func(*cli.Context, error) {}, // main's
		Commands: []*cli.Command{
			{
				Name: "check", Usage: "say what works on this host, and why not otherwise",
				Flags: []cli.Flag{asJSON}, Action: checkHost,
			},
			{
				Name: "status", Usage: "tell how the plugins are doing",
				Flags: []cli.Flag{asJSON}, Action: showStatus,
			},
			{
				Name: "install", Usage: "register the plugins with containerd and systemd",
				Flags: []cli.Flag{dryRun}, Action: installHost,
			},
			{
				Name: "uninstall", Usage: "take the plugins away, when nothing uses them",
				Flags: []cli.Flag{dryRun}, Action: uninstallHost,
			},
			{
				Name: "demo", Usage: "show the plugins beside the stock parts, on a private containerd", ArgsUsage: "[" + strings.Join(demo.Parts, "|") + "]...",
				Action: inSandbox(showDemo),
			},
			{
				Name: "bench", Usage: "measure the plugins against the stock parts", ArgsUsage: "[" + strings.Join(benchNames(), "|") + "|all]",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "quick", Usage: "end within 50 s, with fewer samples"},
					&cli.PathFlag{Name: "json", Usage: "write the rows to `FILE` too"},
					&cli.StringSliceFlag{Name: "rows", Usage: "measure these `ROWS` of net or plasma only, with commas between them"},
				},
				Action: inSandbox(runBench),
			},
			{Name: "workload", Hidden: true, Action: runWorkload},
		},
	}
}

func checkHost(c *cli.Context) error {
	var results []check.Result
	for _, p := range plugins {
		if p.check == nil {
			continue
		}
		found, err := p.check(c.Context)
		if err != nil {
			return err
		}
		results = append(results, found...)
	}
	if c.Bool("json") {
		return printJSON(results)
	}
	return check.Print(os.Stdout, results)
}

func printJSON(value any) error {
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(value)
}

func showStatus(c *cli.Context) error {
	reports := map[string]report{}
	for _, p := range plugins {
		if p.status == nil {
			continue
		}
		r, err := p.status(c.Context)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if reports[p.name] = r; c.Bool("json") {
			continue
		}
		fmt.Printf("%s: ", p.name)
		if err := r.Print(os.Stdout); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		return printJSON(reports)
	}
	return nil
}

func installHost(c *cli.Context) error {
	parts, err := installed(c.Context)
	if err != nil {
		return err
	}
	if err := install.Do(c.Context, os.Stdout, install.Plan("/", parts...), c.Bool("dry-run")); err != nil || c.Bool("dry-run") {
		return err
	}
	for _, p := range plugins {
		if p.advise == nil {
			continue
		}
		if err := p.advise(c.Context, os.Stdout); err != nil {
			return err
		}
	}
	return nil
}

func uninstallHost(c *cli.Context) error {
	parts, err := installed(c.Context)
	if err != nil {
		return err
	}
	steps, err := install.PlanRemoval(c.Context, "/", parts...)
	if err != nil {
		return err
	}
	return install.Do(c.Context, os.Stdout, steps, c.Bool("dry-run"))
}

// installed asks each plugin for its part of an installation.
func installed(ctx context.Context) ([]install.Plugin, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	var parts []install.Plugin
	for _, p := range plugins {
		if p.install == nil {
			continue
		}
		part, err := p.install(ctx, bin)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	return parts, nil
}

func showDemo(c *cli.Context) error {
	return withStock(func(cache, bin string) error {
		return demo.Run(c.Context, os.Stdout, demo.Options{Cache: cache, Bin: bin, Progress: newProgress(os.Stderr), Parts: c.Args().Slice()})
	})
}

func runBench(c *cli.Context) error {
	which := c.Args().First()
	if which == "" {
		which = "all"
	}
	if which != "all" && !slices.Contains(benchNames(), which) || c.NArg() > 1 {
		return fmt.Errorf("no bench %q, want one of %s, all: %w", strings.Join(c.Args().Slice(), " "), strings.Join(benchNames(), ", "), errdefs.ErrInvalidArgument)
	}
	if c.IsSet("rows") && which != "net" && which != "plasma" {
		return fmt.Errorf("rows of %s can't be measured alone, only those of net and plasma: %w", which, errdefs.ErrInvalidArgument)
	}
	return withStock(func(cache, bin string) error {
		rows := []bench.Row{}
		for _, p := range plugins {
			if which != "all" && which != p.bench.name {
				continue
			}
			more, err := p.bench.run(c.Context, bench.Options{Cache: cache, Bin: bin, Quick: c.Bool("quick"), Rows: c.StringSlice("rows"), Progress: newProgress(os.Stderr)})
			if err != nil {
				return err
			}
			rows = append(rows, more...)
		}
		fmt.Printf("peregrine %s against containerd %s; %s\n\n", version.Version, harness.Versions[0], bench.Machine())
		if err := bench.Print(os.Stdout, rows); err != nil {
			return err
		}
		if file := c.Path("json"); file != "" {
			return bench.WriteJSON(file, rows)
		}
		return nil
	})
}

// inSandbox runs a command where it can leave nothing behind, however it ends.
func inSandbox(do cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		if os.Getuid() != 0 {
			return fmt.Errorf("needs root, to run containers: %w", errdefs.ErrPermissionDenied)
		}
		code, done, err := sandbox.Run(c.Context)
		if err != nil {
			return err
		}
		if done {
			if code != 0 {
				return cli.Exit("", code)
			}
			return nil
		}
		return do(c)
	}
}

// withStock finds the stock parts and the bundle's binaries.
func withStock(do func(cache, bin string) error) error {
	cache, err := harness.Cache()
	if err != nil {
		return err
	}
	bin, err := binaries()
	if err != nil {
		return err
	}
	return do(cache, bin)
}

// binaries is where this program and with it the bundle's others are.
func binaries() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.Dir(self), nil
}
