// Command flashcube-shim is the process of a part: the parent and reaper of a
// container's init. containerd-shim-flashcube-v1 and flashcubed run it; nobody else does.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/peregrine-dev/peregrine/internal/version"
	"github.com/peregrine-dev/peregrine/shim/config"
	"github.com/peregrine-dev/peregrine/shim/part"
	"github.com/peregrine-dev/peregrine/shim/task"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "flashcube-shim:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var (
		dir         = flag.String("dir", "", "be the part of this directory")
		cold        = flag.Bool("cold", false, "the part is claimed, and descriptor 3 is its listener")
		initFD      = flag.Int("init", 0, "descriptor of the sealed flashcube-init, 0: copy it")
		cleanup     = flag.Bool("cleanup", false, "end a container whose shim is dead")
		info        = flag.Bool("info", false, "tell about the runtime")
		showVersion = flag.Bool("v", false, "print the version")

		// as containerd has them
		namespace = flag.String("namespace", "", "containerd's namespace")
		id        = flag.String("id", "", "of the container")
		bundle    = flag.String("bundle", "", "of the container; the working directory if empty")
		_         = flag.String("address", "", "ignored")
		_         = flag.String("publish-binary", "", "ignored")
		debug     = flag.Bool("debug", false, "log more")
	)
	flag.Parse()
	if *debug {
		if err := log.SetLevel("debug"); err != nil {
			return err
		}
	}
	switch {
	case *showVersion:
		fmt.Printf("flashcube-shim:\n  Version:  %s\n", version.Version)
		return nil
	case *info:
		return tell(ctx)
	case *cleanup:
		return end(ctx, *namespace, *id, *bundle)
	case *dir == "":
		return fmt.Errorf("containerd runs this program by way of containerd-shim-flashcube-v1")
	}
	cfg, err := config.Load(config.DefaultPath, false)
	if err != nil {
		return err
	}
	c := part.Config{Dir: *dir, Cold: *cold, Fallback: cfg.Fallback}
	if *initFD != 0 {
		c.Init = os.NewFile(uintptr(*initFD), "flashcube-init")
	} else if c.InitPath, err = beside("flashcube-init"); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	return part.Run(ctx, c)
}

// beside is a program of the bundle's.
func beside(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.Join(filepath.Dir(self), name), nil
}

// tell answers -info as the stock shim does, with the fall-back's features.
func tell(ctx context.Context) error {
	info, err := manager.NewShimManager("io.containerd.flashcube.v1").Info(ctx, os.Stdin)
	if err != nil {
		return err
	}
	info.Version.Version, info.Version.Revision = version.Version, ""
	text, err := proto.Marshal(info)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(text)
	return err
}

// end answers delete.
func end(ctx context.Context, namespace, id, bundle string) (err error) {
	if bundle == "" {
		if bundle, err = os.Getwd(); err != nil {
			return err
		}
	}
	status, err := task.Cleanup(ctx, namespace, id, bundle)
	if err != nil {
		return err
	}
	text, err := proto.Marshal(&taskapi.DeleteResponse{
		Pid: uint32(status.Pid), ExitStatus: uint32(status.ExitStatus), ExitedAt: protobuf.ToTimestamp(status.ExitedAt),
	})
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(text)
	return err
}
