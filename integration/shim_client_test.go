package integration

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"slices"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// container makes one by the client, and takes it away when the test ends.
func (s *shimUnderTest) container(t *testing.T, client *containerd.Client, id string, opts ...oci.SpecOpts) containerd.Container {
	t.Helper()
	image, err := client.GetImage(t.Context(), s.image)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.NewContainer(t.Context(), id,
		containerd.WithImage(image),
		containerd.WithSnapshotter("overlayfs"),
		containerd.WithNewSnapshot(id, image),
		containerd.WithRuntime(s.runtime, nil),
		containerd.WithNewSpec(append([]oci.SpecOpts{oci.WithImageConfig(image)}, opts...)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if task, err := c.Task(ctx, nil); err == nil {
			if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
				t.Error(err)
			}
		}
		if err := c.Delete(ctx, containerd.WithSnapshotCleanup); err != nil {
			t.Error(err)
		}
	})
	return c
}

func (s *shimUnderTest) connect(t *testing.T) *containerd.Client {
	t.Helper()
	client, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

// unpack puts the image on a snapshotter.
func (s *shimUnderTest) unpack(t *testing.T, snapshotter string) {
	t.Helper()
	image, err := s.connect(t).GetImage(t.Context(), s.image)
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Unpack(t.Context(), snapshotter); err != nil {
		t.Fatal(err)
	}
}

// startTask makes and starts a task; ended gets its exit.
func startTask(t *testing.T, c containerd.Container, streams cio.Creator) (task containerd.Task, ended <-chan containerd.ExitStatus) {
	t.Helper()
	task, err := c.NewTask(t.Context(), streams)
	if err != nil {
		t.Fatal(err)
	}
	if ended, err = task.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := task.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return task, ended
}

// end waits for a task's exit and fails the test unless it has a code.
func end(t *testing.T, ended <-chan containerd.ExitStatus, want uint32) {
	t.Helper()
	select {
	case status := <-ended:
		if code, _, err := status.Result(); err != nil || code != want {
			t.Errorf("the exit is %d, %v; want %d", code, err, want)
		}
	case <-time.After(time.Minute):
		t.Fatal("no exit")
	}
}

// removed deletes a task and fails the test unless it had exited with a code.
func (s *shimUnderTest) removed(t *testing.T, id string, want uint32) {
	t.Helper()
	c, err := s.connect(t).LoadContainer(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.Task(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	status, err := task.Delete(t.Context())
	if err != nil || status.ExitCode() != want {
		t.Errorf("task %s exited with %d, %v; want %d", id, status.ExitCode(), err, want)
	}
}

func remove(t *testing.T, task containerd.Task) {
	t.Helper()
	if _, err := task.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}

// neverStarted deletes a task that was made and never started.
func (s *shimUnderTest) neverStarted(t *testing.T) {
	client := s.connect(t)
	c := s.container(t, client, "created", oci.WithProcessArgs("touch", "/ran"))
	task, err := c.NewTask(t.Context(), cio.NullIO)
	if err != nil {
		t.Fatal(err)
	}
	status, err := task.Status(t.Context())
	if err != nil || status.Status != containerd.Created {
		t.Errorf("the task is %q, %v", status.Status, err)
	}
	if err := unix.Kill(int(task.Pid()), 0); err != nil {
		t.Errorf("process %d of a made task: %v", task.Pid(), err)
	}
	if _, err := task.Delete(t.Context(), containerd.WithProcessKill); err != nil {
		t.Error(err)
	}
	gone(t, int(task.Pid()))
}

// streams sends text through a container by fifos: it ends when its input does.
func (s *shimUnderTest) streams(t *testing.T) {
	client := s.connect(t)
	c := s.container(t, client, "streams", oci.WithProcessArgs("sh", "-c", "cat; echo end >&2"))
	in, say := io.Pipe()
	var out, diagnostics bytes.Buffer
	task, ended := startTask(t, c, cio.NewCreator(cio.WithStreams(in, &out, &diagnostics)))
	if _, err := io.WriteString(say, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if err := say.Close(); err != nil {
		t.Fatal(err)
	}
	if err := task.CloseIO(t.Context(), containerd.WithStdinCloser); err != nil {
		t.Fatal(err)
	}
	end(t, ended, 0)
	remove(t, task) // waits for the streams
	if out.String() != "hello\n" || diagnostics.String() != "end\n" {
		t.Errorf("out is %q, err %q", out.String(), diagnostics.String())
	}
}

// largeOutput compares more than any pipe holds.
func (s *shimUnderTest) largeOutput(t *testing.T) {
	client := s.connect(t)
	c := s.container(t, client, "large", oci.WithProcessArgs("cat"))
	text := make([]byte, 4<<20)
	if _, err := rand.Read(text); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	// The client closes its end of the fifo when the text ends; the shim's is closed then.
	in := &closing{Reader: bytes.NewReader(text), ended: make(chan struct{})}
	task, ended := startTask(t, c, cio.NewCreator(cio.WithStreams(in, &out, io.Discard)))
	select {
	case <-in.ended:
	case <-time.After(time.Minute):
		t.Fatal("the container doesn't read its input")
	}
	if err := task.CloseIO(t.Context(), containerd.WithStdinCloser); err != nil {
		t.Fatal(err)
	}
	end(t, ended, 0)
	remove(t, task)
	if !bytes.Equal(out.Bytes(), text) {
		t.Errorf("%d bytes came back of %d, or others", out.Len(), len(text))
	}
}

// closing tells when a reader has been read to its end.
type closing struct {
	io.Reader
	ended chan struct{}
}

func (c *closing) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if err == io.EOF {
		close(c.ended)
	}
	return n, err
}

// outOfMemory has the kernel kill a container that takes more than it may.
func (s *shimUnderTest) outOfMemory(t *testing.T) {
	client := s.connect(t)
	c := s.container(t, client, "oom", oci.WithProcessArgs("tail", "/dev/zero"), oci.WithMemoryLimit(32<<20))
	next := subscribe(t, client, c.ID())
	task, ended := startTask(t, c, cio.NullIO)
	end(t, ended, 137)
	var told []string
	for len(told) < 4 {
		told = append(told, next())
	}
	if !slices.Contains(told, "oom") {
		t.Errorf("no event tells that memory is out: %q", told)
	}
	remove(t, task)
}

// killAll ends what a container has started along with it.
func (s *shimUnderTest) killAll(t *testing.T) {
	client := s.connect(t)
	// With the host's process ids, so that the kernel doesn't end them with process 1.
	c := s.container(t, client, "all", oci.WithProcessArgs("sh", "-c", "sleep 1000 & sleep 1000 & wait"), oci.WithHostNamespace("pid"))
	task, ended := startTask(t, c, cio.NullIO)
	pids := waitPids(t, task, 3)
	if err := task.Kill(t.Context(), unix.SIGKILL, containerd.WithKillAll); err != nil {
		t.Fatal(err)
	}
	end(t, ended, 137)
	remove(t, task)
	for _, pid := range pids {
		gone(t, int(pid))
	}
}

// waitPids waits until a task has a number of processes.
func waitPids(t *testing.T, task containerd.Task, n int) (pids []uint32) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		infos, err := task.Pids(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(infos) == n {
			for _, info := range infos {
				pids = append(pids, info.Pid)
			}
			return pids
		}
		if time.Now().After(end) {
			t.Fatalf("%d processes, want %d", len(infos), n)
		}
	}
}

// gone waits until a process is.
func gone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); unix.Kill(pid, 0) == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("process %d is still there", pid)
		}
	}
}
