package install

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// plugin is one with everything, whose State is below root.
func plugin(calls *[]string) Plugin {
	return Plugin{
		Name: "demo",
		Files: []File{
			{Path: "/etc/demo/config.toml", Text: []byte("a = 1\n"), Yours: true},
			{Path: "/etc/containerd/conf.d/demo.toml", Text: []byte("b = 2\n")},
		},
		Units: []string{"demo.socket", "demo.service"},
		State: []string{"/var/lib/demo/snapshots", "/var/lib/demo/lock"},
		Dirs:  []string{"/var/lib/demo", "/etc/demo"},
		InUse: func(context.Context) ([]string, error) {
			*calls = append(*calls, "in use?")
			return nil, nil
		},
		Release: func(context.Context) error {
			*calls = append(*calls, "release")
			return nil
		},
	}
}

// tree lists the files below root and what is in them.
func tree(t *testing.T, root string) string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		list = append(list, strings.TrimPrefix(path, root)+": "+string(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, "")
}

// do does steps and returns what it told.
func do(t *testing.T, steps []Step, dry bool) string {
	t.Helper()
	var out strings.Builder
	if err := Do(t.Context(), &out, steps, dry); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

const installed = "/etc/containerd/conf.d/demo.toml: b = 2\n/etc/demo/config.toml: a = 1\n"

func TestInstall(t *testing.T) {
	root, calls := t.TempDir(), []string(nil)
	steps := Plan(root, plugin(&calls))
	want := "would write " + root + "/etc/demo/config.toml\nwould write " + root + "/etc/containerd/conf.d/demo.toml\n"
	if out := do(t, steps, true); out != want {
		t.Errorf("a dry run told\n%swant\n%s", out, want)
	}
	if got := tree(t, root); got != "" {
		t.Errorf("a dry run left\n%s", got)
	}
	want = strings.ReplaceAll(want, "would", "done:")
	if out := do(t, steps, false); out != want {
		t.Errorf("told\n%swant\n%s", out, want)
	}
	if got := tree(t, root); got != installed {
		t.Errorf("installed\n%swant\n%s", got, installed)
	}
	if fi, err := os.Stat(root + "/etc/demo/config.toml"); err != nil || fi.Mode() != 0o644 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if out := do(t, Plan(root, plugin(&calls)), false); out != "nothing to do\n" {
		t.Errorf("a second time, told\n%s", out)
	}
	if len(calls) > 0 {
		t.Errorf("called %q", calls)
	}
}

func TestInstallOverOlder(t *testing.T) {
	root, calls := t.TempDir(), []string(nil)
	put(t, root+"/etc/demo/config.toml", "a = 'edited'\n")
	put(t, root+"/etc/containerd/conf.d/demo.toml", "b = 'of an older release'\n")
	put(t, root+"/etc/containerd/conf.d/demo.toml.new", "cut sh")
	do(t, Plan(root, plugin(&calls)), false)
	want := "/etc/containerd/conf.d/demo.toml: b = 2\n/etc/demo/config.toml: a = 'edited'\n"
	if got := tree(t, root); got != want {
		t.Errorf("installed\n%swant\n%s", got, want)
	}
}

func TestLink(t *testing.T) {
	const path, to = "/opt/cni/bin/demo", "/usr/local/bin/demo"
	p := Plugin{Name: "demo", Files: []File{{Path: path, Link: to}}, Dirs: []string{"/opt/cni/bin"}}
	for name, before := range map[string]func(t *testing.T, file string){
		"nothing":      func(*testing.T, string) {},
		"interrupted":  func(t *testing.T, file string) { symlink(t, "/elsewhere", file+".new") },
		"another link": func(t *testing.T, file string) { symlink(t, "/elsewhere", file) },
		"a file":       func(t *testing.T, file string) { put(t, file, "of an older release") },
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			before(t, root+path)
			steps := Plan(root, p)
			if out, want := do(t, steps, true), "would link "+root+path+" to "+to+"\n"; out != want {
				t.Errorf("a dry run told %q, want %q", out, want)
			}
			do(t, steps, false)
			if now, err := os.Readlink(root + path); err != nil || now != to {
				t.Errorf("is a link to %q, %v", now, err)
			}
			if out := do(t, Plan(root, p), false); out != "nothing to do\n" {
				t.Errorf("a second time, told %q", out)
			}
			steps, err := PlanRemoval(t.Context(), root, p)
			if err != nil {
				t.Fatal(err)
			}
			do(t, steps, false)
			if _, err := os.Lstat(root + "/opt/cni/bin"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after removal: %v", err)
			}
		})
	}
}

// TestRemovalSparesOtherLinks has what somebody put in a link's place.
func TestRemovalSparesOtherLinks(t *testing.T) {
	root := t.TempDir()
	p := Plugin{Name: "demo", Files: []File{{Path: "/bin/file", Link: "/x"}, {Path: "/bin/link", Link: "/x"}, {Path: "/bin/none", Link: "/x"}}}
	put(t, root+"/bin/file", "theirs")
	symlink(t, "/elsewhere", root+"/bin/link")
	steps, err := PlanRemoval(t.Context(), root, p)
	if err != nil {
		t.Fatal(err)
	}
	want := "done: leave " + root + "/bin/file, which is no link to /x\ndone: leave " + root + "/bin/link, which is no link to /x\n"
	if out := do(t, steps, false); out != want {
		t.Errorf("told\n%swant\n%s", out, want)
	}
	if now, err := os.Readlink(root + "/bin/link"); err != nil || now != "/elsewhere" {
		t.Errorf("the link is to %q, %v", now, err)
	}
	if text, err := os.ReadFile(root + "/bin/file"); err != nil || string(text) != "theirs" {
		t.Errorf("the file is %q, %v", text, err)
	}
}

func symlink(t *testing.T, to, path string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(to, path)); err != nil {
		t.Fatal(err)
	}
}

func TestInstallFails(t *testing.T) {
	root, calls := t.TempDir(), []string(nil)
	put(t, root+"/etc/containerd", "a file where a directory is needed")
	var out strings.Builder
	err := Do(t.Context(), &out, Plan(root, plugin(&calls)), false)
	if err == nil || !strings.Contains(err.Error(), "write "+root+"/etc/containerd/conf.d/demo.toml") {
		t.Errorf("error %v doesn't name the step", err)
	}
	if want := "done: write " + root + "/etc/demo/config.toml\n"; out.String() != want {
		t.Errorf("told %q, want %q", out.String(), want)
	}
}

func TestRemoval(t *testing.T) {
	root, calls := t.TempDir(), []string(nil)
	p := plugin(&calls)
	do(t, Plan(root, p), false)
	put(t, root+"/var/lib/demo/snapshots/1", "x")
	put(t, root+"/var/lib/other", "stays\n")
	steps, err := PlanRemoval(t.Context(), root, p)
	if err != nil {
		t.Fatal(err)
	}
	before := tree(t, root)
	if out := do(t, steps, true); strings.Count(out, "would ") != len(steps) || tree(t, root) != before {
		t.Errorf("a dry run told\n%sand left\n%s", out, tree(t, root))
	}
	if !slices.Equal(calls, []string{"in use?"}) {
		t.Errorf("before it starts: %q", calls)
	}
	out := do(t, steps, false)
	if got, want := tree(t, root), "/var/lib/other: stays\n"; got != want {
		t.Errorf("left\n%swant\n%s", got, want)
	}
	// The kernel lets go of the state before it is removed.
	if r, s := strings.Index(out, "release"), strings.Index(out, "/var/lib/demo"); r < 0 || s < r {
		t.Errorf("told\n%s", out)
	}
	if !slices.Equal(calls, []string{"in use?", "release"}) {
		t.Errorf("called %q", calls)
	}
	for _, dir := range p.Dirs {
		if _, err := os.Lstat(root + dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, want it gone", dir, err)
		}
	}
	// Where nothing is installed, nothing but the release is left to do.
	if steps, err = PlanRemoval(t.Context(), root, p); err != nil || len(steps) != 1 {
		t.Errorf("a second time: %+v, %v", steps, err)
	}
	do(t, steps, false)
}

func TestRemovalKeepsWhatWasEdited(t *testing.T) {
	root, calls := t.TempDir(), []string(nil)
	p := plugin(&calls)
	do(t, Plan(root, p), false)
	put(t, root+"/etc/demo/config.toml", "a = 'edited'\n")
	put(t, root+"/etc/containerd/conf.d/demo.toml", "b = 'edited'\n") // which isn't theirs to edit
	steps, err := PlanRemoval(t.Context(), root, p)
	if err != nil {
		t.Fatal(err)
	}
	if out := do(t, steps, false); !strings.Contains(out, "leave "+root+"/etc/demo/config.toml, which was edited") {
		t.Errorf("told\n%s", out)
	}
	if got, want := tree(t, root), "/etc/demo/config.toml: a = 'edited'\n"; got != want {
		t.Errorf("left\n%swant\n%s", got, want)
	}
}

// TestRemovalSparesWhatIsNotOurs has a root that the operator put other things in.
func TestRemovalSparesWhatIsNotOurs(t *testing.T) {
	root, calls := t.TempDir(), []string(nil)
	put(t, root+"/var/lib/demo/lock", "")
	put(t, root+"/var/lib/demo/thesis.tex", "dear\n")
	steps, err := PlanRemoval(t.Context(), root, plugin(&calls))
	if err != nil {
		t.Fatal(err)
	}
	do(t, steps, false)
	if got, want := tree(t, root), "/var/lib/demo/thesis.tex: dear\n"; got != want {
		t.Errorf("left\n%swant\n%s", got, want)
	}
}

func TestRemovalWhileInUse(t *testing.T) {
	var calls []string
	using := func(name string, users ...string) Plugin {
		p := plugin(&calls)
		p.Name = name
		p.InUse = func(context.Context) ([]string, error) { return users, nil }
		return p
	}
	root := t.TempDir()
	do(t, Plan(root, plugin(&calls)), false)
	steps, err := PlanRemoval(t.Context(), root, using("one", "container a", "image b"), using("free"), using("two", "container c"))
	if !errdefs.IsFailedPrecondition(err) || steps != nil {
		t.Fatalf("planned %+v, %v; want ErrFailedPrecondition", steps, err)
	}
	for _, what := range []string{"one is in use", "container a", "image b", "two is in use", "container c"} {
		if !strings.Contains(err.Error(), what) {
			t.Errorf("%q doesn't say %q", err, what)
		}
	}
	if strings.Contains(err.Error(), "free") {
		t.Errorf("%q blames free", err)
	}
	if got := tree(t, root); got != installed {
		t.Errorf("left\n%s", got)
	}
}

func TestRemovalBlind(t *testing.T) {
	var calls []string
	p := plugin(&calls)
	p.InUse = func(context.Context) ([]string, error) { return nil, errdefs.ErrUnavailable }
	if steps, err := PlanRemoval(t.Context(), t.TempDir(), p); !errdefs.IsUnavailable(err) || steps != nil {
		t.Errorf("planned %+v, %v; want the error", steps, err)
	}
}

// TestRemovalStopsAtRelease can't unmount: what is mounted must not be deleted.
func TestRemovalStopsAtRelease(t *testing.T) {
	root, calls := t.TempDir(), []string(nil)
	p := plugin(&calls)
	p.Release = func(context.Context) error { return errdefs.ErrFailedPrecondition }
	put(t, root+"/var/lib/demo/snapshots/1", "kept\n")
	steps, err := PlanRemoval(t.Context(), root, p)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := Do(t.Context(), &out, steps, false); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v", err)
	}
	if got, want := tree(t, root), "/var/lib/demo/snapshots/1: kept\n"; got != want {
		t.Errorf("left\n%swant\n%s", got, want)
	}
}

func TestNothing(t *testing.T) {
	root := t.TempDir()
	steps, err := PlanRemoval(t.Context(), root, Plugin{Name: "bare"})
	if err != nil {
		t.Fatal(err)
	}
	if out := do(t, append(steps, Plan(root)...), false); out != "nothing to do\n" {
		t.Errorf("told %q", out)
	}
}
