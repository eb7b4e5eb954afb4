// Command plasmactl works with elasticity policies: it formats and checks them, tries them and
// serves editors; and it speaks to plasmad, which carries them out. See docs/plasma.md and
// docs/plasma/ctl.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/internal/version"
	"github.com/peregrine-dev/peregrine/plasma/epl"
)

// Exit codes. Misuse is also what can't be read or written.
const (
	codeRefused = 1 // a policy has mistakes
	codeMisuse  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := app().RunContext(ctx, os.Args)
	stop()
	var exit cli.ExitCoder
	var mistakes epl.Errors
	switch {
	case errors.As(err, &exit):
		if text := err.Error(); text != "" {
			fmt.Fprintln(os.Stderr, "plasmactl:", text)
		}
		os.Exit(exit.ExitCode())
	case errors.As(err, &mistakes):
		fmt.Fprintln(os.Stderr, mistakes)
		os.Exit(codeRefused)
	case err != nil:
		fmt.Fprintln(os.Stderr, "plasmactl:", err)
		os.Exit(codeMisuse)
	}
}

func app() *cli.App {
	return &cli.App{
		Name:            "plasmactl",
		Usage:           "elasticity policies: write, check, try and explain them, and run services by them",
		Version:         version.Version,
		HideHelpCommand: true,
		ExitErrHandler:  func(*cli.Context, error) {}, // main's
		Commands:        commands(),
	}
}

func commands() []*cli.Command {
	return []*cli.Command{
		vetCommand(), formatCommand(), worldsCommand(), simCommand(), compareCommand(),
		planCommand(), explainCommand(), replayCommand(), lspCommand(),
		applyCommand(), deleteCommand(), statusCommand(), topCommand(), moveCommand(), drainCommand(),
		pauseCommand(), resumeCommand(), callCommand(),
	}
}
