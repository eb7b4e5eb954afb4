package setup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/control"
	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/status"
)

// patience is for whoever is asked.
const patience = 5 * time.Second

// Report is how this host's plasmad is, and what it says of the cluster.
type Report struct {
	Socket string `json:"socket"`
	Daemon bool   `json:"daemon"` // plasmad answers
	// Problem is why it doesn't.
	Problem string `json:"problem,omitempty"`
	// Cluster is what it answers; nil if it doesn't.
	Cluster *status.Cluster `json:"cluster,omitempty"`
}

// Status asks the plasmad of this host, for a few seconds at most. That it doesn't answer is in
// the report and no error.
func Status(ctx context.Context) (Report, error) { return ask(ctx, socket()), nil }

func socket() string {
	if path := os.Getenv("PLASMA_SOCKET"); path != "" {
		return path
	}
	return filepath.Join(run, "plasmad.sock")
}

func ask(ctx context.Context, socket string) Report {
	r := Report{Socket: socket}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := knock(ctx, socket)
	if err == nil {
		r.Cluster, err = fetch(ctx, socket)
	}
	r.Daemon = err == nil
	if err != nil {
		r.Problem = explain(err)
	}
	return r
}

// knock tells whether somebody listens on a unix socket.
func knock(ctx context.Context, socket string) error {
	conn, err := dial(ctx, socket)
	if err != nil {
		return err
	}
	return conn.Close()
}

func dial(ctx context.Context, socket string) (net.Conn, error) {
	d := net.Dialer{Timeout: patience}
	return d.DialContext(ctx, "unix", socket)
}

func fetch(ctx context.Context, socket string) (*status.Cluster, error) {
	conn, err := grpc.NewClient("passthrough:///plasmad", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx, socket) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(control.MaxMessage)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	answer, err := api.NewClusterClient(conn).Status(ctx, &api.StatusRequest{})
	if err != nil {
		return nil, err
	}
	s := new(status.Cluster)
	if err := json.Unmarshal(answer.GetStatus(), s); err != nil {
		return nil, fmt.Errorf("its status can't be read: %w", err)
	}
	if s.Version != status.Version {
		return nil, fmt.Errorf("its status is of version %d, this program knows %d: %w", s.Version, status.Version, errdefs.ErrNotImplemented)
	}
	return s, nil
}

// explain says for people why plasmad doesn't answer.
func explain(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "only root may ask plasmad"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return "plasmad doesn't run: services go on as they are, and nothing adapts them; systemctl start plasmad"
	case errors.Is(err, context.DeadlineExceeded), grpcstatus.Code(err) == codes.DeadlineExceeded:
		return fmt.Sprintf("plasmad doesn't answer within %s", patience)
	}
	if s, ok := grpcstatus.FromError(err); ok {
		return "plasmad answers: " + s.Message()
	}
	return "plasmad can't be asked: " + err.Error()
}

// Print writes the report for people.
func (r Report) Print(w io.Writer) error {
	c := r.Cluster
	if c == nil {
		_, err := fmt.Fprintf(w, "%s (%s)\n", r.Problem, r.Socket)
		return err
	}
	leader := "led by " + c.Leader
	if c.Leader == "" {
		leader = "without a leader"
	}
	fmt.Fprintf(w, "plasmad runs (%s), cluster %s, %s\n", r.Socket, c.Cluster, leader)
	for _, n := range c.Nodes {
		if !n.Up {
			fmt.Fprintf(w, "node %s is down: its plasmad is not heard\n", n.Name)
		}
	}
	if len(c.Services) == 0 {
		_, err := fmt.Fprintln(w, "no services")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "SERVICE\tSERVERS\tUP\tACTORS\tMOVES\tSTATE")
	for _, s := range c.Services {
		up := 0
		for _, one := range s.Servers {
			if one.State == model.Up {
				up++
			}
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%s\n", s.Name, len(s.Servers), up, s.Total, len(s.Moves), stateOf(s))
	}
	return t.Flush()
}

// stateOf is how a service is in a few words.
func stateOf(s status.Service) string {
	switch {
	case len(s.Trouble) > 0:
		return s.Trouble[0]
	case s.Paused:
		return "paused"
	case s.Shadow:
		return "shadow"
	}
	return "ready"
}
