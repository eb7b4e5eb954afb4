package apps

import (
	"bytes"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/epl/vet"
	"github.com/peregrine-dev/peregrine/plasma/manifest"
	"github.com/peregrine-dev/peregrine/plasma/world"
)

// draws gives both variants of a world.
var draws = map[string]func(string, uint64) (*world.World, error){"": World, " stationary": Stationary}

func eachWorld(t *testing.T, seeds uint64, do func(t *testing.T, w *world.World, stationary bool)) {
	t.Helper()
	for _, name := range Names() {
		for variant, draw := range draws {
			t.Run(name+variant, func(t *testing.T) {
				for seed := range seeds {
					w, err := draw(name, seed)
					if err != nil {
						t.Fatal(err)
					}
					do(t, w, variant != "")
				}
			})
		}
	}
}

func TestWorldsAreValid(t *testing.T) {
	t.Parallel()
	eachWorld(t, 5, func(t *testing.T, w *world.World, _ bool) {
		if err := w.Validate(); err != nil {
			t.Fatalf("seed %d: %v", w.Seed, err)
		}
	})
}

func TestWorldsAreDrawnBySeed(t *testing.T) {
	t.Parallel()
	for _, name := range Names() {
		a, _ := World(name, 7)
		b, _ := World(name, 7)
		other, _ := World(name, 8)
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s: the same seed gives two worlds", name)
		}
		other.Seed = a.Seed
		if reflect.DeepEqual(a, other) {
			t.Errorf("%s: two seeds give the same world", name)
		}
	}
	if _, err := World("media", math.MaxInt64+1); err == nil {
		t.Error("a seed that can't be written is taken")
	}
	if _, err := World("no", 1); err == nil || !strings.Contains(err.Error(), "metadata") {
		t.Errorf("an unknown world: %v", err)
	}
}

func TestWorldsAreWrittenAndRead(t *testing.T) {
	t.Parallel()
	eachWorld(t, 1, func(t *testing.T, w *world.World, _ bool) {
		text, err := world.Write(w)
		if err != nil {
			t.Fatal(err)
		}
		back, err := world.Read("world.toml", text, nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := world.Write(back)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(text, again) {
			t.Error("it is not the same when it is read and written again")
		}
		if back.DemandAt(time.Minute) != w.DemandAt(time.Minute) {
			t.Error("it asks for something else when it was read")
		}
	})
}

// load is what a world asks for.
type load struct{ mean, peak, messages, requests float64 }

func loadOf(w *world.World) load {
	var l load
	const every = 2 * time.Second
	for at := every / 2; at < w.Duration; at += every {
		d := w.DemandAt(at)
		l.mean += d.CPU * float64(every) / float64(w.Duration)
		l.peak = max(l.peak, d.CPU)
		l.messages += d.Messages * every.Seconds()
		l.requests += d.Requests * every.Seconds()
	}
	return l
}

func TestServersFitTheLoad(t *testing.T) {
	t.Parallel()
	eachWorld(t, 1, func(t *testing.T, w *world.World, stationary bool) {
		l := loadOf(w)
		if n := int(math.Ceil(l.peak/(.7*w.Server.Cores) - .05)); w.Peak < n || w.Peak > n+1 {
			t.Errorf("seed %d: the peak is %d servers, and %.2f cores need %d", w.Seed, w.Peak, l.peak, n)
		}
		if n := int(math.Ceil(l.mean/(.7*w.Server.Cores) - .05)); w.Mean < n || w.Mean > n+1 {
			t.Errorf("seed %d: the mean is %d servers, and %.2f cores need %d", w.Seed, w.Mean, l.mean, n)
		}
		if w.Mean < 4 || w.Peak > 12 || w.Servers < 2 || w.Servers > w.Peak {
			t.Errorf("seed %d: it begins with %d servers, needs %d and at its peak %d: out of 2, 4 and 12", w.Seed, w.Servers, w.Mean, w.Peak)
		}
		// A run is a fraction of a second: so many that twenty seeds of all worlds are a minute.
		if l.messages > 90_000 {
			t.Errorf("seed %d: %.0f messages are more than a short run has", w.Seed, l.messages)
		}
		if stationary && l.peak > 1.06*l.mean {
			t.Errorf("seed %d: it is not stationary: %.2f cores in the mean, %.2f at most", w.Seed, l.mean, l.peak)
		}
	})
}

// TestElasticityMatters holds that fitting the servers to the load at every moment, at 65 % of
// their cores, takes less than 1/1.54 of a peak's servers.
func TestElasticityMatters(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"media", "estore"} {
		for seed := range uint64(2) {
			w, _ := World(name, seed)
			ideal, n := 0.0, 0.0
			for at := time.Second; at < w.Duration; at += time.Second {
				ideal += float64(max(2, w.Needed(w.DemandAt(at).CPU, .65)))
				n++
			}
			if l := loadOf(w); l.mean/l.peak > .5 {
				t.Errorf("%s, seed %d: the mean load is %.2f of the peak", name, seed, l.mean/l.peak)
			}
			if gain := float64(w.Peak) / (ideal / n); gain < 1.75 {
				t.Errorf("%s, seed %d: servers at every moment gain %.2f", name, seed, gain)
			}
		}
	}
}

func TestOneActorFitsAServer(t *testing.T) {
	t.Parallel()
	eachWorld(t, 5, func(t *testing.T, w *world.World, _ bool) {
		for at := 10 * time.Second; at < w.Duration; at += 20 * time.Second {
			if id, cores := busiest(w, at); cores > .75 {
				t.Errorf("seed %d, at %s: %s alone needs %.2f cores", w.Seed, at, id, cores)
			}
		}
	})
}

// busiest is the actor whose own turns need most at a time, in cores; references are those of the
// beginning.
func busiest(w *world.World, at time.Duration) (id string, cores float64) {
	actors := map[string]*world.Actor{}
	for i := range w.Actors {
		actors[w.Actors[i].ID] = &w.Actors[i]
	}
	own := map[string]float64{}
	var call func(id, function string, rate float64)
	call = func(id, function string, rate float64) {
		a := actors[id]
		f := w.Types[a.Type].Functions[function]
		scale := a.Scale
		if scale == 0 {
			scale = 1
		}
		own[id] += rate * f.Service.Mean.Seconds() * scale
		for _, c := range f.Calls {
			to := a.Refs[c.Property]
			each := rate
			if c.Probability > 0 {
				each *= c.Probability
			}
			if !c.All {
				each /= float64(len(to))
			}
			for _, other := range to {
				call(other, c.Function, each)
			}
		}
	}
	for _, s := range w.Streams {
		rates := map[string]float64{}
		sum := 0.0
		for _, target := range s.Targets {
			rates[target.ID] = world.Step(target.Weight, at)
			sum += rates[target.ID]
		}
		for id, a := range actors {
			if s.Targets == nil && len(s.Arrivals) == 0 && a.Type == s.Type {
				rates[id] = 1
				sum++
			}
		}
		for id, weight := range rates {
			call(id, s.Function, world.At(s.Rate, at)*weight/sum)
		}
		for _, a := range s.Arrivals {
			if a.At >= at && a.At < at+10*time.Second {
				call(a.ID, s.Function, .1)
			}
		}
	}
	for other, c := range own {
		if c > cores {
			id, cores = other, c
		}
	}
	return id, cores
}

func TestStationaryWorldsStay(t *testing.T) {
	t.Parallel()
	for _, name := range Names() {
		w, _ := Stationary(name, 3)
		if len(w.Events) > 0 {
			t.Errorf("%s: something happens at %s", name, w.Events[0].At)
		}
		for _, s := range w.Streams {
			if len(s.Rate) > 1 {
				t.Errorf("%s: the rate of %s changes", name, s.Function)
			}
			for _, target := range s.Targets {
				if len(target.Weight) != 1 {
					t.Errorf("%s: the weight of %s changes", name, target.ID)
				}
			}
		}
	}
}

func TestPolicies(t *testing.T) {
	t.Parallel()
	for _, name := range Names() {
		text, err := Manifest(name)
		if err != nil {
			t.Fatal(err)
		}
		m, err := manifest.Read(name+"/manifest.toml", text)
		if err != nil {
			t.Fatal(err)
		}
		if m.Name != name {
			t.Errorf("%s: its manifest is of %q", name, m.Name)
		}
		for mode, file := range map[epl.Mode]string{epl.Full: "policy.epl", epl.Paper: "policy.paper.epl"} {
			file = name + "/" + file
			text, err := Policy(name, mode)
			if err != nil {
				t.Fatal(err)
			}
			policy, err := epl.Parse(file, text, mode)
			if err != nil {
				t.Errorf("%v", err)
				continue
			}
			if formatted, err := epl.Format(file, text, mode); err != nil || !bytes.Equal(formatted, text) {
				t.Errorf("%s isn't formatted (%v)", file, err)
			}
			for _, f := range vet.Check(policy, m) {
				if f.Severity != vet.Note {
					t.Errorf("%s:%s: %s: %s", file, f.Pos, f.Code, f.Message)
				}
			}
			if _, err := ir.Compile(policy); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
}

// TestManifestsFitTheWorlds holds that a manifest has the types, functions and properties that
// its world has, and no others.
func TestManifestsFitTheWorlds(t *testing.T) {
	t.Parallel()
	for _, name := range Names() {
		text, _ := Manifest(name)
		m, err := manifest.Read(name, text)
		if err != nil {
			t.Fatal(err)
		}
		w, _ := World(name, 1)
		types := map[string]string{}
		for _, a := range w.Actors {
			types[a.ID] = a.Type
		}
		got := map[string]map[string]string{}
		for _, a := range w.Actors {
			if got[a.Type] == nil {
				got[a.Type] = map[string]string{}
			}
			for p, to := range a.Refs {
				got[a.Type][p] = types[to[0]]
			}
		}
		if len(m.Types) != len(w.Types) {
			t.Errorf("%s: the manifest has %d types, the world %d", name, len(m.Types), len(w.Types))
		}
		for typ, of := range m.Types {
			functions := w.Types[typ].Functions
			if len(functions) != len(of.Functions) {
				t.Errorf("%s.%s has %d functions, in the manifest %d", name, typ, len(functions), len(of.Functions))
			}
			for _, f := range of.Functions {
				if _, ok := functions[f]; !ok {
					t.Errorf("%s.%s.%s is in the manifest alone", name, typ, f)
				}
			}
			if len(of.Properties)+len(got[typ]) > 0 && !reflect.DeepEqual(of.Properties, got[typ]) {
				t.Errorf("%s.%s: the manifest has %v, the world %v", name, typ, of.Properties, got[typ])
			}
		}
	}
}

func TestReadmes(t *testing.T) {
	t.Parallel()
	for _, name := range Names() {
		text, err := Readme(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{"# ", "## What happens", "## What is drawn", "## Policies", "## Try it", "plasmactl sim - " + name, "EuroSys 2020|ours"} {
			found := false
			for alternative := range strings.SplitSeq(part, "|") {
				found = found || bytes.Contains(text, []byte(alternative))
			}
			if !found {
				t.Errorf("%s's README has no %q", name, part)
			}
		}
		if s, err := Summary(name); err != nil || s == "" || len(s) > 100 {
			t.Errorf("%s: its summary is %q (%v)", name, s, err)
		}
	}
}
