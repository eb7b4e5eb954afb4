package sim

import (
	"strings"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/world"
)

const goodCalibration = `
[costs]
local_call = "2us"
move_pause = "3ms"

[service]
Q = 2
"R.slow" = 0.5
`

func TestCalibration(t *testing.T) {
	c, err := ReadCalibration("c.toml", []byte(goodCalibration))
	if err != nil {
		t.Fatal(err)
	}
	ms := func(n int) world.Function {
		return world.Function{Service: world.Service{Mean: time.Duration(n) * time.Millisecond}}
	}
	w := &world.World{
		Name:  "w",
		Costs: world.Costs{LocalCall: time.Second, RemoteCall: time.Second},
		Types: map[string]world.Type{
			"Q": {Functions: map[string]world.Function{"f": ms(10)}},
			"R": {Functions: map[string]world.Function{"slow": ms(10), "fast": ms(1)}},
		},
	}
	got, err := c.Apply(w)
	if err != nil {
		t.Fatal(err)
	}
	if got.Costs.LocalCall != 2*time.Microsecond || got.Costs.MovePause != 3*time.Millisecond || got.Costs.RemoteCall != time.Second {
		t.Errorf("costs %+v", got.Costs)
	}
	mean := func(w *world.World, typ, f string) time.Duration { return w.Types[typ].Functions[f].Service.Mean }
	if mean(got, "Q", "f") != 20*time.Millisecond || mean(got, "R", "slow") != 5*time.Millisecond || mean(got, "R", "fast") != time.Millisecond {
		t.Errorf("types %+v", got.Types)
	}
	if mean(w, "Q", "f") != 10*time.Millisecond || w.Costs.LocalCall != time.Second {
		t.Error("the world itself was changed")
	}
	c.Service["R.none"] = 1
	if _, err := c.Apply(w); err == nil || !strings.Contains(err.Error(), "a factor for R.none") {
		t.Errorf("a factor for nothing gives %v", err)
	}
}

func TestWrongCalibrations(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"[costs]\nlocal_call = 5", "c.toml:2:1: local_call is no duration"},
		{"[costs]\nlocal_call = \"5 parsecs\"", `c.toml:2:1: local_call is no duration`},
		{"[costs]\nlocal_call = \"-5s\"", "c.toml:2:1: -5s is no cost"},
		{"[costs]\nlocal_call = \"1s\"\nlocl_call = \"5s\"", `c.toml:3:1: there is no cost "locl_call"`},
		{"[service]\n\n  F = 0", "c.toml:3:3: F: 0 is no factor"},
		{"[service]\n\"F.g\" = nan", "c.toml:2:1: F.g: NaN is no factor"},
		{"[service]\nF = \"2\"", "c.toml:2:1: F: 2 is no factor"},
		{"\ncosts = { start = 1 }", "c.toml:2:1: start is no duration"},
		{"[cost]\nx = 1", `c.toml:1:2: there is no key "cost"`},
		{"[costs", "c.toml:1:"},
		{strings.Repeat("#", MaxCalibration+1), "c.toml:1:1: a calibration of more than 1 MiB"},
	} {
		_, err := ReadCalibration("c.toml", []byte(c.text))
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%.40q gives %v, want %s", c.text, err, c.want)
		}
	}
}

func FuzzReadCalibration(f *testing.F) {
	f.Add([]byte(goodCalibration))
	f.Add([]byte("[costs]\nlocal_call = \"5 parsecs\""))
	f.Add([]byte("[service]\n\"F.g\" = nan\nF = -1"))
	f.Add([]byte("costs = { start = \"1s\" }\nservice.F = 2"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ReadCalibration("c.toml", text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "c.toml:") {
				t.Errorf("an error without a place: %v", err)
			}
			return
		}
		for key, d := range c.Costs {
			if costKeys[key] == nil || d < 0 {
				t.Errorf("it took %s = %s", key, d)
			}
		}
		for key, v := range c.Service {
			if !(v > 0 && v <= maxFactor) {
				t.Errorf("it took %s = %v", key, v)
			}
		}
	})
}
