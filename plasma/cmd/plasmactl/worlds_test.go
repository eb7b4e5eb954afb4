package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/peregrine-dev/peregrine/plasma/apps"
	"github.com/peregrine-dev/peregrine/plasma/world"
)

func worlds(args ...string) (string, error) {
	var out bytes.Buffer
	a := &cli.App{
		Name: "plasmactl", Writer: &out, ErrWriter: &out,
		ExitErrHandler: func(*cli.Context, error) {}, Commands: []*cli.Command{worldsCommand()},
	}
	err := a.Run(append([]string{"plasmactl", "worlds"}, args...))
	return out.String(), err
}

func TestWorldsLists(t *testing.T) {
	out, err := worlds()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != len(apps.Names()) || !strings.HasPrefix(lines[0], apps.Names()[0]+" ") {
		t.Errorf("it lists\n%s", out)
	}
}

func TestWorldsPrints(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"policy", "media"}, "limits {"},
		{[]string{"policy", "--epl=paper", "media"}, "balance({VideoStream}, cpu)"},
		{[]string{"manifest", "media"}, "[type.VideoStream]"},
		{[]string{"readme", "media"}, "flash crowd"},
		{[]string{"export", "--seed", "7", "media"}, "seed = 7"},
	} {
		if out, err := worlds(c.args...); err != nil || !strings.Contains(out, c.want) {
			t.Errorf("%v: %v, and no %q", c.args, err, c.want)
		}
	}
	if out, _ := worlds("policy", "--epl=paper", "media"); strings.Contains(out, "limits") {
		t.Error("the policy in the paper's language has limits")
	}
}

func TestWorldsExportsWhatIsRead(t *testing.T) {
	moving, err := worlds("export", "media")
	if err != nil {
		t.Fatal(err)
	}
	w, err := world.Read("media.toml", []byte(moving), nil)
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := apps.World("media", 1); len(w.Actors) != len(want.Actors) || w.Seed != 1 || w.Peak != want.Peak {
		t.Error("it isn't the world of seed 1")
	}
	if still, err := worlds("export", "--stationary", "media"); err != nil || still == moving {
		t.Errorf("a stationary world is as the other (%v)", err)
	}
}

func TestWorldsMisuse(t *testing.T) {
	for _, args := range [][]string{
		{"export"},
		{"export", "media", "--seed", "2"},
		{"export", "no-such-world"},
		{"export", "--seed", "18446744073709551615", "media"},
		{"policy", "--epl=half", "media"},
		{"policy", "a", "b"},
		{"show"},
	} {
		if _, err := worlds(args...); err == nil {
			t.Errorf("%s is taken", strings.Join(slices.Concat([]string{"worlds"}, args), " "))
		}
	}
}
