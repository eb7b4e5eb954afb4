package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"github.com/peregrine-dev/peregrine/plasma/epl"
)

func formatCommand() *cli.Command {
	return &cli.Command{
		Name: "fmt", Usage: "format policies, to standard output unless told otherwise", ArgsUsage: "[FILE...]",
		Description: "Comments are kept. - or no file is standard input.\n" +
			"Exit codes: 0 if all is well, 1 if a policy has mistakes (or, with --check, isn't formatted), 2 for anything else.",
		Flags: []cli.Flag{
			languageFlag(),
			&cli.BoolFlag{Name: "w", Usage: "write the files, where that changes them"},
			&cli.BoolFlag{Name: "check", Aliases: []string{"d"}, Usage: "change nothing: list the files that aren't formatted"},
		},
		Action: formatFiles,
	}
}

func formatFiles(c *cli.Context) error {
	mode, err := language(c)
	if err != nil {
		return err
	}
	if c.Bool("w") && c.Bool("check") {
		return fmt.Errorf("-w writes files and --check changes nothing: give one of them: %w", errdefs.ErrInvalidArgument)
	}
	failed := false
	for _, file := range files(c) {
		if c.Bool("w") && file == "-" {
			return fmt.Errorf("standard input can't be written: leave out -w: %w", errdefs.ErrInvalidArgument)
		}
		fine, err := formatFile(c, file, mode)
		if err != nil {
			return err
		}
		failed = failed || !fine
	}
	if failed {
		return refused()
	}
	return nil
}

func formatFile(c *cli.Context, file string, mode epl.Mode) (fine bool, err error) {
	name, text, err := read(c, file)
	if err != nil {
		return false, err
	}
	formatted, err := epl.Format(name, text, mode)
	if err != nil {
		return false, mistakes(c.App.ErrWriter, text, err)
	}
	same := bytes.Equal(text, formatted)
	switch {
	case c.Bool("check"):
		if !same {
			_, err = fmt.Fprintln(c.App.Writer, name)
		}
		return same, err
	case c.Bool("w"):
		if same {
			return true, nil
		}
		return true, replace(file, formatted)
	}
	_, err = c.App.Writer.Write(formatted)
	return true, err
}

// replace gives a file a new content, at once: nobody sees half of it.
func replace(file string, text []byte) error {
	file, err := filepath.EvalSymlinks(file)
	if err != nil {
		return err
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) //nolint:errcheck // it is gone if all went well
	if _, err := temp.Write(text); err != nil {
		temp.Close()
		return err
	}
	if err := temp.Chmod(info.Mode().Perm()); err != nil {
		temp.Close()
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	return os.Rename(temp.Name(), file)
}
