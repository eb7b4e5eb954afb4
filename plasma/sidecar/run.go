package sidecar

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/plasma/host"
)

// DefaultListen is where the application reaches the sidecar, if nobody else in the network
// namespace listens there.
const DefaultListen = "127.0.0.1:3500"

const (
	startTime   = time.Minute      // for the application to say its types
	leaveTime   = 10 * time.Second // for the application to end when it is told to
	maxTurns    = 256              // that the application works on at once
	headerTime  = 5 * time.Second
	requestTime = callTime + 5*time.Second
)

// Config is what a sidecar is started with.
type Config struct {
	Port    uint16   // of the application
	Command []string // that is the application
	Listen  string   // of the sidecar; DefaultListen if it is empty
	Host    host.Options
	Signals <-chan os.Signal // to end, or to hand on to the application
}

// Run starts the application and hosts its actors until a signal or ctx says that it is to end:
// then all actors are stored before the application is told. It gives the application's exit
// status; an error is one of the sidecar's own, which ends the application too.
//
// When the application ends by itself the process has to end at once, as if it were killed, and
// the host is left as it is: to close it would answer the turns under way, which no application
// has done. They are done again when the server is started again.
func Run(ctx context.Context, c Config) (status int, err error) {
	if c.Port == 0 || len(c.Command) == 0 {
		return 0, fmt.Errorf("want the application's port and its command: %w", errdefs.ErrInvalidArgument)
	}
	listener, err := listen(ctx, cmp.Or(c.Listen, DefaultListen))
	if err != nil {
		return 0, err
	}
	s := &sidecar{Config: c, leave: leaveTime, turns: newTurns(maxTurns)}
	token := rand.Text()
	s.application = newApplication(c.Port, token)
	defer s.application.Close()
	s.api = newAPI(token, s.turns)
	server := &http.Server{
		Handler:           s.api,
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       requestTime,
		WriteTimeout:      requestTime,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		err = errors.Join(err, server.Close())
		if stopped := <-served; !errors.Is(stopped, http.ErrServerClosed) {
			err = errors.Join(err, stopped)
		}
	}()
	env := environment("PLASMA_URL=http://"+listener.Addr().String(), "PLASMA_TOKEN="+token, fmt.Sprintf("PORT=%d", c.Port))
	if s.process, err = startProcess(c.Command, env); err != nil {
		return 0, err
	}
	err = s.serve(ctx)
	return s.end(ctx), err
}

// listen takes another port if the default is somebody else's: the application is told which.
func listen(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	if errors.Is(err, unix.EADDRINUSE) && address == DefaultListen {
		return config.Listen(ctx, "tcp", "127.0.0.1:0")
	}
	return l, err
}

// environment is this process's with others in place of what it has. A name that is there twice
// would have its first value in C and its last in Go.
func environment(set ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(have string) bool {
		return slices.ContainsFunc(set, func(e string) bool {
			name, _, _ := strings.Cut(e, "=")
			return strings.HasPrefix(have, name+"=")
		})
	})
	return append(env, set...)
}

// sidecar is a running one.
type sidecar struct {
	Config
	leave       time.Duration
	application *application
	process     *process
	turns       *turns
	api         *api
}

// serve hosts actors until it is told to end, and has stored them then, or until the application
// ends.
func (s *sidecar) serve(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		stop(s.watch(ctx))
	}()
	defer func() { stop(nil); <-watched }()

	h, err := s.start(ctx)
	if err != nil {
		if ctx.Err() != nil { // it was told to end before
			return nil
		}
		return err
	}
	s.api.serve(h)
	select {
	case <-ctx.Done():
		if errors.Is(context.Cause(ctx), errEnded) {
			return nil
		}
	case err = <-h.Failed():
	}
	return errors.Join(err, h.Close())
}

// errEnded is why there is nothing to host any more.
var errEnded = errors.New("the application has ended")

// start starts the host when the application has said what it is to host.
func (s *sidecar) start(ctx context.Context) (*host.Host, error) {
	soon, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	types, err := s.application.types(soon)
	if err != nil {
		return nil, err
	}
	o := s.Host
	for _, t := range types.Types {
		o.Types = append(o.Types, host.Type{
			Name: t.Name, Durable: host.Durability(t.Durable), Functions: t.Functions,
			New: func() host.Behavior { return &hosted{actor{application: s.application, turns: s.turns}} },
		})
	}
	return host.Start(ctx, o)
}

// hosted is an actor as hosts have it.
type hosted struct{ actor }

// Turn handles one message.
func (a *hosted) Turn(t *host.Turn, function string, body []byte) ([]byte, error) {
	return a.take(t, function, body)
}

// watch waits until a signal, ctx, or the application's end, says that the sidecar is to end. It
// hands other signals on.
func (s *sidecar) watch(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.process.exited:
			log.G(ctx).Warnf("the application has ended with status %d", s.process.status)
			return errEnded
		case got := <-s.Signals:
			switch got {
			case unix.SIGTERM, unix.SIGINT, unix.SIGQUIT:
				return nil
			}
			if err := s.process.signal(got); err != nil {
				log.G(ctx).WithError(err).Warn("hand a signal on")
			}
		}
	}
}

// end ends the application, if it still runs, and gives its status.
func (s *sidecar) end(ctx context.Context) int {
	if err := s.process.signal(unix.SIGTERM); err != nil {
		log.G(ctx).WithError(err).Warn("end the application")
	}
	late := time.NewTimer(s.leave)
	defer late.Stop()
	select {
	case <-s.process.exited:
	case <-late.C:
		log.G(ctx).Warnf("the application still runs %s after it was told to end", s.leave)
		if err := s.process.signal(unix.SIGKILL); err != nil {
			log.G(ctx).WithError(err).Warn("kill the application")
		}
		<-s.process.exited
	}
	return s.process.status
}
