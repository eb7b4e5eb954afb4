package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"github.com/peregrine-dev/peregrine/plasma/epl"
)

// maxFile is more than any file here may have: readers refuse less, with a place.
const maxFile = 64 << 20

// languageFlag says which language policies are in.
func languageFlag() cli.Flag {
	return &cli.StringFlag{Name: "epl", Usage: "the `LANGUAGE`: full, or paper for the published grammar and nothing else", Value: "full"}
}

func language(c *cli.Context) (epl.Mode, error) {
	switch c.String("epl") {
	case "full":
		return epl.Full, nil
	case "paper":
		return epl.Paper, nil
	}
	return 0, fmt.Errorf("--epl is %q, want full or paper: %w", c.String("epl"), errdefs.ErrInvalidArgument)
}

// files are a command's arguments: names of files, of which "-" and none are standard input.
func files(c *cli.Context) []string {
	if c.NArg() == 0 {
		return []string{"-"}
	}
	return c.Args().Slice()
}

// read reads a file, and gives the name that messages have for it.
func read(c *cli.Context, file string) (name string, text []byte, err error) {
	if file == "-" {
		text, err = io.ReadAll(io.LimitReader(c.App.Reader, maxFile))
		return "<standard input>", text, err
	}
	f, err := os.Open(file)
	if err != nil {
		return file, nil, err
	}
	defer f.Close()
	text, err = io.ReadAll(io.LimitReader(f, maxFile))
	return file, text, err
}

// mistakes writes a policy's errors with the lines they are in.
func mistakes(w io.Writer, text []byte, err error) error {
	var list epl.Errors
	if !errors.As(err, &list) {
		return err
	}
	var b bytes.Buffer
	for _, e := range list {
		fmt.Fprintf(&b, "%v\n%s", e, e.Excerpt(text))
	}
	_, err = w.Write(b.Bytes())
	return err
}

// refused is the end of a command that has said what is wrong.
func refused() error { return cli.Exit("", codeRefused) }
