package task_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
)

func (s *shim) addExec(id, exec, script string) error {
	text, err := json.Marshal(&specs.Process{
		Args: []string{"sh", "-c", script}, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: true,
	})
	if err != nil {
		return err
	}
	_, err = s.Exec(background(), &taskapi.ExecProcessRequest{ID: id, ExecID: exec, Spec: &anypb.Any{Value: text}})
	return err
}

func (s *shim) startExec(id, exec, script string) (int, error) {
	if err := s.addExec(id, exec, script); err != nil {
		return 0, err
	}
	a, err := s.Start(background(), &taskapi.StartRequest{ID: id, ExecID: exec})
	return int(a.GetPid()), err
}

// TestExecs has many at once, some that end at once, some with a Delete that comes while
// they start.
func TestExecs(t *testing.T) {
	s := newShim(t)
	s.run("c", bundle(t, "exec sleep 100", nil))
	const many = 24
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			exec := fmt.Sprint("e", i)
			if _, err := s.startExec("c", exec, fmt.Sprintf("exit %d", i)); err != nil {
				t.Error(err)
				return
			}
			if got := s.wait("c", exec); got != i {
				t.Errorf("%s: status %d", exec, got)
			}
			if a, err := s.Delete(background(), &taskapi.DeleteRequest{ID: "c", ExecID: exec}); err != nil || int(a.ExitStatus) != i {
				t.Errorf("%s: %v, %v", exec, a, err)
			}
		})
	}
	for i := range 6 {
		exec := fmt.Sprint("d", i)
		if err := s.addExec("c", exec, "exit 0"); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { _, _ = s.Start(background(), &taskapi.StartRequest{ID: "c", ExecID: exec}) })
		wg.Go(func() { _, _ = s.Delete(background(), &taskapi.DeleteRequest{ID: "c", ExecID: exec}) })
	}
	wg.Wait()
	until(t, "every exit", func() bool {
		got := strings.Fields(s.sent())
		started, exited := 0, 0
		for _, name := range got {
			switch name {
			case "ExecStarted":
				started++
			case "Exit":
				exited++
			}
		}
		return started >= many && started == exited
	})
	// An exec's end is told before the init's.
	if _, err := s.startExec("c", "last", "exec sleep 100"); err != nil {
		t.Fatal(err)
	}
	s.end("c")
	if got := s.sent(); !strings.HasSuffix(got, "ExecStarted Exit Exit Delete") {
		t.Error(got)
	}
}

// TestExecNamespaces: an exec is in the container's namespaces, whosever those are.
func TestExecNamespaces(t *testing.T) {
	s := newShim(t)
	first := s.run("first", bundle(t, "exec sleep 100", nil))
	for name, path := range map[string]string{"own": "", "joined": fmt.Sprintf("/proc/%d/ns/pid", first), "host": "host"} {
		t.Run(name, func(t *testing.T) {
			pid := s.run(name, bundle(t, "exec sleep 100", func(s *specs.Spec) {
				var list []specs.LinuxNamespace
				for _, ns := range s.Linux.Namespaces {
					if ns.Type != specs.PIDNamespace {
						list = append(list, ns)
					} else if path != "host" {
						list = append(list, specs.LinuxNamespace{Type: ns.Type, Path: path})
					}
				}
				s.Linux.Namespaces = list
			}))
			exec, err := s.startExec(name, "e", "exec sleep 100")
			if err != nil {
				t.Fatal(err)
			}
			for _, ns := range []string{"pid", "mnt", "net", "ipc", "uts", "cgroup"} {
				of := func(pid int) string {
					link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
					if err != nil {
						t.Fatal(err)
					}
					return link
				}
				if of(pid) != of(exec) {
					t.Errorf("%s: %s and %s", ns, of(pid), of(exec))
				}
			}
			// With the init goes what it shares no pid namespace of its own with.
			s.end(name)
		})
	}
}

func TestExecFails(t *testing.T) {
	s := newShim(t)
	s.run("c", bundle(t, "exec sleep 100", nil))
	for i, p := range []specs.Process{
		{Args: []string{"/no/such"}, Cwd: "/"},
		{Args: []string{"true"}, Cwd: "/no/such"},
		{Args: []string{"true"}, Cwd: "relative"},
		{Args: []string{"true"}, Cwd: "/", SelinuxLabel: "l"},
		{Cwd: "/"},
	} {
		text, err := json.Marshal(&p)
		if err != nil {
			t.Fatal(err)
		}
		exec := fmt.Sprint("e", i)
		if _, err := s.Exec(background(), &taskapi.ExecProcessRequest{ID: "c", ExecID: exec, Spec: &anypb.Any{Value: text}}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Start(background(), &taskapi.StartRequest{ID: "c", ExecID: exec}); err == nil {
			t.Errorf("%d: no error", i)
		}
		if _, err := s.Delete(background(), &taskapi.DeleteRequest{ID: "c", ExecID: exec}); err != nil {
			t.Error(err)
		}
	}
	if a, err := s.Pids(background(), &taskapi.PidsRequest{ID: "c"}); err != nil || len(a.Processes) > 6 {
		t.Error(a, err)
	}
}
