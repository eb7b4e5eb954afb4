package setup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/peregrine-dev/peregrine/internal/check"
	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/config"
	"github.com/peregrine-dev/peregrine/shim/pool"
)

// Check probes the host for the runtime: the kernel, what runs what it can't, the pool
// and containerd. It leaves nothing behind.
func Check(ctx context.Context) ([]check.Result, error) {
	cfg, err := config.Load(config.DefaultPath, false)
	if err != nil {
		return []check.Result{result("configuration", check.Missing, err.Error())}, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	bin, root, daemon := filepath.Dir(self), claim.Root(), findContainerd(ctx)
	return append(Kernel(),
		programs(bin),
		fallback(cfg.Fallback, daemon.path),
		directory(root),
		keeper(ctx, root),
		onPath(daemon, bin),
		handler(ctx, daemon.path),
	), nil
}

func result(probe string, s check.Status, detail string) check.Result {
	return check.Result{Plugin: Name, Probe: probe, Status: s, Detail: detail}
}

// programs looks for those that the start of a container executes.
func programs(bin string) check.Result {
	for _, name := range []string{shimBinary, claim.ShimBinary, claim.InitBinary} {
		if _, err := lookPath(name, bin); err != nil {
			return result("programs", check.Missing, fmt.Sprintf("%v: no container starts; install the bundle again", err))
		}
	}
	return result("programs", check.OK, bin)
}

// fallback looks for the runtime that takes over, where containerd's programs look.
func fallback(name, path string) check.Result {
	program, err := lookPath(name, path)
	if err != nil {
		return result("fall-back", check.Limited,
			fmt.Sprintf("%v: a container that can't run natively fails; install %s or set fallback in %s", err, name, config.DefaultPath))
	}
	return result("fall-back", check.OK, program)
}

// lookPath is exec.LookPath for another PATH.
func lookPath(name, path string) (string, error) {
	if filepath.IsAbs(name) {
		return name, unix.Access(name, unix.X_OK)
	}
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, name)
		if fi, err := os.Stat(file); err == nil && fi.Mode().IsRegular() && unix.Access(file, unix.X_OK) == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s is in none of %s", name, path)
}

// longestSocket is that of a part with the longest name, below the root.
const longestSocket = "/default/claimed/cold-4194304-0123456789abcdef/" + claim.Socket

// directory judges where parts are, or where they would be.
func directory(root string) check.Result {
	const probe, most = "root of parts", 107 // of sockaddr_un, unix(7)
	if n := len(root) + len(longestSocket); n > most {
		return result(probe, check.Missing,
			fmt.Sprintf("a socket's path below %s has %d bytes and may have %d: no container starts; choose a shorter FLASHCUBE_ROOT", root, n, most))
	}
	dir := root
	fi, err := os.Stat(dir)
	for errors.Is(err, os.ErrNotExist) && dir != "/" {
		dir = filepath.Dir(dir)
		fi, err = os.Stat(dir)
	}
	if err == nil && !fi.IsDir() {
		err = &os.PathError{Op: "use", Path: dir, Err: unix.ENOTDIR}
	}
	if err == nil {
		err = os.NewSyscallError("write to "+dir, unix.Access(dir, unix.W_OK|unix.X_OK))
	}
	if err != nil {
		return result(probe, check.Missing, fmt.Sprintf("%v: no container starts", err))
	}
	if dir != root {
		return result(probe, check.OK, root+", to be made")
	}
	if fi.Mode().Perm()&0o077 != 0 || fi.Sys().(*syscall.Stat_t).Uid != 0 {
		return result(probe, check.Limited, fmt.Sprintf("%s is open to others than root: they could keep containers from starting; chown root and chmod 700 it", root))
	}
	return result(probe, check.OK, root)
}

// keeper asks whether somebody keeps the pool full.
func keeper(ctx context.Context, root string) check.Result {
	const probe = "flashcubed"
	if err := healthy(ctx, filepath.Join(root, pool.SocketName)); err != nil {
		return result(probe, check.Limited, fmt.Sprintf("%v: containers start cold once the pool is empty; systemctl start flashcubed", err))
	}
	status, err := pool.ReadStatus(root)
	if err != nil {
		return result(probe, check.Limited, fmt.Sprintf("runs, but the pool can't be read: %v", err))
	}
	ready := 0
	for _, p := range status.Profiles {
		if p.Failure != "" {
			return result(probe, check.Limited, fmt.Sprintf("can't build parts: %s: containers start cold once the pool is empty", p.Failure))
		}
		ready += p.Ready
	}
	return result(probe, check.OK, fmt.Sprintf("runs, %d parts are ready", ready))
}

func healthy(ctx context.Context, socket string) error {
	if _, err := os.Stat(socket); errors.Is(err, os.ErrNotExist) {
		return errors.New("doesn't run")
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return errors.New("doesn't answer on " + socket)
	}
	if answer.Status != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("says that it is %s", strings.ToLower(answer.Status.String()))
	}
	return nil
}

// onPath asks whether containerd will find the program that it executes.
func onPath(daemon containerd, bin string) check.Result {
	const probe = "containerd's PATH"
	program, err := lookPath(shimBinary, daemon.path)
	if err != nil {
		return result(probe, check.Limited,
			fmt.Sprintf("%v: name the runtime by its path, %s", err, filepath.Join(bin, shimBinary)))
	}
	detail := program
	if !daemon.running {
		detail += ", if containerd gets systemd's PATH; it doesn't run now"
	}
	return result(probe, check.OK, detail)
}

// handler asks whether CRI knows the runtime; ctr and nerdctl need not be told.
func handler(ctx context.Context, path string) check.Result {
	const probe = "CRI handler"
	registered, err := Registered(ctx, path)
	switch {
	case err != nil:
		return result(probe, check.Limited, err.Error())
	case !registered:
		return result(probe, check.Limited, "containerd's configuration has no runtime flashcube: pods can't have it; peregrine install says what to do")
	}
	return result(probe, check.OK, "flashcube")
}
