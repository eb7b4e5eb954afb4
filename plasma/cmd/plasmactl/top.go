package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/status"
)

// rows is how many servers, and how many actors, are shown where nothing bounds them.
const rows = 20

func topCommand() *cli.Command {
	return &cli.Command{
		Name:        "top",
		Usage:       "show the busiest servers and actors, and what moves, as they change",
		ArgsUsage:   "[SERVICE]",
		Description: "On a terminal it is drawn again and again, until Ctrl-C; elsewhere each update is printed below the last.",
		Flags:       []cli.Flag{socketFlag(), &cli.BoolFlag{Name: "once", Usage: "print what is now, and end"}},
		Action: func(c *cli.Context) error {
			if c.NArg() > 1 {
				return named(c, 1)
			}
			return ask(c, func(ctx context.Context, cluster api.ClusterClient) error { return top(ctx, c, cluster) })
		},
	}
}

func top(ctx context.Context, c *cli.Context, cluster api.ClusterClient) error {
	if c.Bool("once") {
		now, err := fetch(ctx, cluster, c.Args().First())
		if err != nil {
			return err
		}
		_, err = c.App.Writer.Write(frame(now, rows, rows))
		return err
	}
	stream, err := cluster.Watch(ctx, &api.StatusRequest{Service: c.Args().First()})
	if err != nil {
		return err
	}
	s := newScreen(c.App.Writer)
	defer s.close()
	for {
		answer, err := stream.Recv()
		if ctx.Err() != nil {
			return nil // the user has seen enough
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("plasmad tells no more: is it being stopped? %w", errdefs.ErrUnavailable)
		}
		if err != nil {
			return err
		}
		now, err := readStatus(answer)
		if err != nil {
			return err
		}
		if err := s.draw(now); err != nil {
			return err
		}
	}
}

// screen is where statuses are drawn: over each other on a terminal, below each other elsewhere.
type screen struct {
	to   io.Writer
	size func() (width, height int, err error) // nil without a terminal
	open bool
}

func newScreen(to io.Writer) *screen {
	s := &screen{to: to}
	if f, ok := to.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		s.size = func() (int, int, error) { return term.GetSize(int(f.Fd())) }
	}
	return s
}

// What terminals understand: another screen without a cursor and back, and to write from its
// corner over what was there.
const (
	enter = "\x1b[?1049h\x1b[?25l"
	leave = "\x1b[?25h\x1b[?1049l"
	home  = "\x1b[H"
	toEnd = "\x1b[K"  // of the line
	below = "\x1b[0J" // of the screen
)

func (s *screen) draw(now *status.Cluster) error {
	if s.size == nil {
		_, err := s.to.Write(append(frame(now, rows, rows), '\n'))
		return err
	}
	width, height, err := s.size()
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if !s.open {
		b.WriteString(enter)
		s.open = true
	}
	b.WriteString(home)
	half := max(1, (height-12)/2) // heads, troubles and moves need the rest
	lines := strings.Split(strings.TrimRight(string(frame(now, half, half)), "\n"), "\n")
	lines = lines[:min(len(lines), max(1, height-1))]
	for _, line := range lines {
		if letters := []rune(line); len(letters) > width {
			line = string(letters[:width])
		}
		b.WriteString(line + toEnd + "\r\n")
	}
	b.WriteString(below)
	_, err = s.to.Write(b.Bytes())
	return err
}

func (s *screen) close() {
	if s.open {
		_, _ = io.WriteString(s.to, leave) // a terminal that is gone needs nothing
	}
}

// frame is a status for people: at most so many servers and actors of all services.
func frame(now *status.Cluster, servers, actors int) []byte {
	var b bytes.Buffer
	var allServers []status.Server
	var allActors []status.Actor
	limits, total, going := map[string]model.Resources{}, 0, 0
	for _, s := range now.Services {
		allServers, allActors = append(allServers, s.Servers...), append(allActors, s.Actors...)
		total, going = total+s.Total, going+len(s.Moves)
		for _, one := range s.Servers {
			limits[one.ID] = one.Limit
		}
	}
	fmt.Fprintf(&b, "%s at %s, %s: %d nodes, %d servers, %d actors, %d on the move\n", plain(now.Cluster), now.At.Format("15:04:05"), ledBy(now),
		len(now.Nodes), len(allServers), total, going)
	for _, text := range troubles(now) {
		fmt.Fprintln(&b, text)
	}
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nSERVER\tNODE\tSTATE\tLOAD\tCPU\tMEMORY\tQUEUE\tP99\tACTORS")
	list := busiest(allServers, load, func(s *status.Server) string { return s.ID })
	for _, s := range list[:min(len(list), servers)] {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\n", plain(s.ID), dash(plain(s.Node)), s.State, bar(load(s)),
			part(s.Usage.CPU, s.Limit.CPU), sizes(s.Usage.Mem, s.Limit.Mem), short(s.Queue), latency(s.Latency.P99), s.Actors)
	}
	_ = t.Flush() // memory takes everything
	t = tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nACTOR\tSERVER\tOF ITS SERVER\tCPU\tMEMORY\tSTATE\tQUEUE")
	most := busiest(allActors, func(a *status.Actor) float64 { return a.Usage.CPU }, func(a *status.Actor) string { return a.ID })
	for _, a := range most[:min(len(most), actors)] {
		share := 0.0
		if limit := limits[a.Server].CPU; limit > 0 {
			share = a.Usage.CPU / limit
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", plain(a.ID), dash(plain(a.Server)), bar(share), part(a.Usage.CPU, limits[a.Server].CPU),
			sizes(a.Usage.Mem, 0), sizes(a.State, 0), short(a.Queue))
	}
	_ = t.Flush()
	printMoves(&b, now)
	return b.Bytes()
}

// maxMoves is how many moves are shown: those under way, then the last.
const maxMoves = 5

func printMoves(b *bytes.Buffer, now *status.Cluster) {
	var going, ended []status.Move
	for _, s := range now.Services {
		going, ended = append(going, s.Moves...), append(ended, s.Recent...)
	}
	slices.SortStableFunc(ended, func(a, b status.Move) int { return b.Began.Compare(a.Began) })
	if len(going)+len(ended) == 0 {
		return
	}
	t := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nMOVE\tFROM\tTO\tIS\tRULE\tREASON")
	all := append(slices.Clone(going), ended...)
	for i, m := range all[:min(len(all), maxMoves)] {
		is := "under way"
		switch {
		case m.Refused != "":
			is = "refused: " + plain(m.Refused)
		case i >= len(going):
			is = fmt.Sprintf("done in %s ms", short(m.Took))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", plain(m.Actor), plain(m.From), plain(m.To), is, dash(plain(m.Rule)), plain(m.Reason))
	}
	_ = t.Flush()
}

const barWidth = 16

// bar draws a share of 1.
func bar(share float64) string {
	n := int(share*barWidth + 0.5)
	n = max(0, min(barWidth, n))
	return strings.Repeat("█", n) + strings.Repeat("░", barWidth-n)
}
