package main

import (
	"os"

	"github.com/urfave/cli/v2"

	"github.com/peregrine-dev/peregrine/plasma/lsp"
)

func lspCommand() *cli.Command {
	return &cli.Command{
		Name: "lsp", Usage: "serve an editor on standard input and output, as the Language Server Protocol has it",
		Description: "Policies are in the language that --epl says, NAME.paper.epl in the paper's. Names come from the application's manifest:\n" +
			"beside NAME.epl it is NAME.manifest.toml or manifest.toml; there or in a folder above, the only *.manifest.toml, or plasma.toml.",
		Flags: []cli.Flag{languageFlag()},
		Action: func(c *cli.Context) error {
			mode, err := language(c)
			if err != nil {
				return err
			}
			return lsp.Serve(os.Stdin, os.Stdout, mode)
		},
	}
}
