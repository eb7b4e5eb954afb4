package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/status"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:      "status",
		Usage:     "show nodes, services and servers, and what doesn't work",
		ArgsUsage: "[SERVICE]",
		Flags:     []cli.Flag{socketFlag(), &cli.BoolFlag{Name: "json", Usage: "print all that is known as JSON"}},
		Action: func(c *cli.Context) error {
			if c.NArg() > 1 {
				return named(c, 1)
			}
			return ask(c, func(ctx context.Context, cluster api.ClusterClient) error {
				now, err := fetch(ctx, cluster, c.Args().First())
				if err != nil {
					return err
				}
				if c.Bool("json") {
					return printJSON(c.App.Writer, now)
				}
				return printStatus(c.App.Writer, now)
			})
		},
	}
}

// fetch asks for the status, of one service if it is named.
func fetch(ctx context.Context, cluster api.ClusterClient, service string) (*status.Cluster, error) {
	answer, err := cluster.Status(ctx, &api.StatusRequest{Service: service})
	if err != nil {
		return nil, err
	}
	return readStatus(answer)
}

func readStatus(answer *api.StatusResponse) (*status.Cluster, error) {
	now := new(status.Cluster)
	if err := json.Unmarshal(answer.GetStatus(), now); err != nil {
		return nil, fmt.Errorf("plasmad's status can't be read: %w: %w", err, errdefs.ErrDataLoss)
	}
	if now.Version != status.Version {
		return nil, fmt.Errorf("plasmad's status is of version %d, and plasmactl knows version %d: install the same version of both: %w",
			now.Version, status.Version, errdefs.ErrNotImplemented)
	}
	return now, nil
}

func printStatus(w io.Writer, now *status.Cluster) error {
	fmt.Fprintf(w, "cluster %s, %s\n\n", plain(now.Cluster), ledBy(now))
	if err := printNodes(w, now); err != nil {
		return err
	}
	if len(now.Services) == 0 {
		_, err := fmt.Fprintln(w, "\nThere is no service yet: `plasmactl apply SERVICE.toml` starts one.")
		return err
	}
	if err := printServices(w, now); err != nil {
		return err
	}
	if err := printServers(w, now); err != nil {
		return err
	}
	if all := troubles(now); len(all) > 0 {
		_, err := fmt.Fprintf(w, "\n%s\n", strings.Join(all, "\n"))
		return err
	}
	return nil
}

func printNodes(w io.Writer, now *status.Cluster) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tZONE\tSTATE\tCPU\tMEMORY\tSERVERS\tHEARD")
	for _, n := range now.Nodes {
		used, servers := model.Resources{}, 0
		for _, s := range now.Services {
			for _, one := range s.Servers {
				if one.Node == n.Name {
					used, servers = used.Add(one.Usage), servers+1
				}
			}
		}
		state := "up"
		if !n.Up {
			state = "down"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", plain(n.Name), dash(plain(n.Zone)), state,
			part(used.CPU, n.Capacity.CPU), sizes(used.Mem, n.Capacity.Mem), servers, ago(now.At, n.Heard))
	}
	return t.Flush()
}

func printServices(w io.Writer, now *status.Cluster) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nSERVICE\tVERSION\tSERVERS\tACTORS\tMOVES\tPLANS\tPLANNED\tIMAGE")
	for _, s := range now.Services {
		plans := "carried out"
		switch {
		case s.Paused:
			plans = "paused"
		case s.Shadow:
			plans = "shadow"
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\n", plain(s.Name), s.Version, len(s.Servers), s.Total, len(s.Moves), plans, ago(now.At, s.Planned), dash(plain(s.Image)))
	}
	return t.Flush()
}

func printServers(w io.Writer, now *status.Cluster) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nSERVER\tNODE\tSTATE\tCPU\tMEMORY\tQUEUE\tP99\tACTORS\tSHARDS\tKEPT FOR")
	for _, s := range now.Services {
		for _, one := range s.Servers {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", plain(one.ID), dash(plain(one.Node)), one.State,
				part(one.Usage.CPU, one.Limit.CPU), sizes(one.Usage.Mem, one.Limit.Mem), short(one.Queue), latency(one.Latency.P99),
				one.Actors, one.Shards, dash(plain(one.Reserved)))
		}
	}
	return t.Flush()
}

// troubles are sentences about what doesn't work.
func troubles(now *status.Cluster) (all []string) {
	for _, n := range now.Nodes {
		if !n.Up {
			all = append(all, fmt.Sprintf("! node %s is down: its plasmad is not heard", plain(n.Name)))
		}
	}
	for _, s := range now.Services {
		for _, text := range s.Trouble {
			all = append(all, fmt.Sprintf("! %s: %s", plain(s.Name), plain(text)))
		}
		for _, one := range s.Servers {
			if one.Why != "" && !slices.Contains(s.Trouble, one.ID+": "+one.Why) {
				all = append(all, fmt.Sprintf("! %s: %s", plain(one.ID), plain(one.Why)))
			}
		}
	}
	return all
}

func ledBy(now *status.Cluster) string {
	if now.Leader == "" {
		return "without a leader"
	}
	return "led by " + plain(now.Leader)
}

// plain takes from a text what would play tricks on a terminal or a table.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// part is a share of cores, or cores if there is no limit.
func part(used, of float64) string {
	if of <= 0 {
		return short(used) + " cores"
	}
	return fmt.Sprintf("%.0f %% of %s", 100*used/of, short(of))
}

func sizes(used, of float64) string {
	if of <= 0 {
		return units.BytesSize(used)
	}
	return units.BytesSize(used) + " of " + units.BytesSize(of)
}

func latency(ms float64) string {
	if ms <= 0 {
		return "-"
	}
	return short(ms) + " ms"
}

// short writes two digits after the point where they matter.
func short(v float64) string {
	switch {
	case v == math.Trunc(v) || v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func ago(now, then time.Time) string {
	if then.IsZero() {
		return "never"
	}
	return max(now.Sub(then), 0).Round(time.Second).String() + " ago"
}

// load is a server's, of its processor: 1 is all of it.
func load(s *status.Server) float64 {
	if s.Limit.CPU <= 0 {
		return 0
	}
	return s.Usage.CPU / s.Limit.CPU
}

// busiest gives pointers to a list's items, those with most first.
func busiest[T any](list []T, amount func(*T) float64, name func(*T) string) []*T {
	all := make([]*T, len(list))
	for i := range list {
		all[i] = &list[i]
	}
	slices.SortFunc(all, func(a, b *T) int {
		return cmp.Or(cmp.Compare(amount(b), amount(a)), strings.Compare(name(a), name(b)))
	})
	return all
}
