package baoverlay

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

var (
	errNoClones = errors.New("no clones")
	errNoPool   = errors.New("no pools")
)

func TestChoose(t *testing.T) {
	var (
		both    = Host{}
		clones  = Host{Pool: errNoPool}
		pools   = Host{Reflink: errNoClones}
		neither = Host{Reflink: errNoClones, Pool: errNoPool}
	)
	holds := func(h Host, e Engine) Host { h.Held = e; return h }
	const dev = "/dev/x"
	for name, c := range map[string]struct {
		want   Engine
		device string
		host   Host
		choice Engine
		passed []Engine
		says   string // of the error
	}{
		"auto, everything works":  {Auto, "", both, ReflinkHost, nil, ""},
		"auto, clones":            {Auto, "", clones, ReflinkHost, nil, ""},
		"auto, pools":             {Auto, "", pools, PoolLoop, []Engine{ReflinkHost}, ""},
		"auto, nothing works":     {Auto, "", neither, Overlay, []Engine{ReflinkHost, PoolLoop}, ""},
		"auto, a device":          {Auto, dev, both, PoolDevice, nil, ""},
		"auto, a device, no loop": {Auto, dev, neither, PoolDevice, nil, ""},

		"reflink-host":               {ReflinkHost, "", both, ReflinkHost, nil, ""},
		"reflink-host, impossible":   {ReflinkHost, "", pools, "", nil, "no clones"},
		"pool-loop":                  {PoolLoop, "", both, PoolLoop, nil, ""},
		"pool-loop, impossible":      {PoolLoop, "", clones, "", nil, "no pools"},
		"pool-device":                {PoolDevice, dev, both, PoolDevice, nil, ""},
		"pool-device without device": {PoolDevice, "", both, "", nil, "needs the name of a device"},
		"overlay":                    {Overlay, "", both, Overlay, nil, ""},
		"overlay, nothing works":     {Overlay, "", neither, Overlay, nil, ""},
		"unknown":                    {"btrfs", "", both, "", nil, "want one of auto, reflink-host, pool-device, pool-loop, overlay"},
		"empty":                      {"", "", both, "", nil, "unknown engine"},

		"auto goes on with pool-loop":            {Auto, "", holds(both, PoolLoop), PoolLoop, nil, ""},
		"auto goes on with pool-loop, or fails":  {Auto, "", holds(clones, PoolLoop), "", nil, "no pools"},
		"auto goes on with overlay":              {Auto, "", holds(pools, Overlay), Overlay, nil, ""},
		"auto goes on with overlay, better":      {Auto, "", holds(both, Overlay), ReflinkHost, nil, ""},
		"auto goes on with the device":           {Auto, dev, holds(both, PoolDevice), PoolDevice, nil, ""},
		"auto goes on with a device, not named":  {Auto, "", holds(both, PoolDevice), "", nil, "needs the name of a device"},
		"a device hides a pool":                  {Auto, dev, holds(both, PoolLoop), "", nil, "snapshots of engine pool-loop"},
		"a device hides the host's":              {Auto, dev, holds(both, Overlay), "", nil, "snapshots of engine overlay"},
		"pool-loop hides the host's":             {PoolLoop, "", holds(both, Overlay), "", nil, "snapshots of engine overlay"},
		"pool-loop hides a device's":             {PoolLoop, "", holds(both, PoolDevice), "", nil, "snapshots of engine pool-device"},
		"overlay hides a pool's":                 {Overlay, "", holds(both, PoolLoop), "", nil, "snapshots of engine pool-loop"},
		"reflink-host hides a pool's":            {ReflinkHost, "", holds(both, PoolLoop), "", nil, "snapshots of engine pool-loop"},
		"reflink-host takes overlay's":           {ReflinkHost, "", holds(both, Overlay), ReflinkHost, nil, ""},
		"overlay takes reflink-host's":           {Overlay, "", holds(both, ReflinkHost), Overlay, nil, ""},
		"overlay stays overlay if that is asked": {Overlay, "", holds(both, Overlay), Overlay, nil, ""},
		"reflink-host can't take overlay's":      {ReflinkHost, "", holds(pools, Overlay), "", nil, "no clones"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Choose(c.want, c.device, c.host)
			if got.Engine != c.choice {
				t.Errorf("chose %q, %v; want %q", got.Engine, err, c.choice)
			}
			if c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("error %v doesn't say %q", err, c.says)
			}
			if (c.says == "") != (err == nil) {
				t.Errorf("error %v", err)
			}
			var passed []Engine
			for _, reason := range got.Passed {
				engine, why, _ := strings.Cut(reason, ": ")
				passed = append(passed, Engine(engine))
				if why == "" {
					t.Errorf("passed over %s without a reason", engine)
				}
			}
			if !slices.Equal(passed, c.passed) {
				t.Errorf("passed over %q, want %q", passed, c.passed)
			}
		})
	}
}

// TestChooseKeepsWhatItPromises goes through everything that can be asked on every host.
func TestChooseKeepsWhatItPromises(t *testing.T) {
	possible := []error{nil, errors.New("impossible")}
	for _, want := range Engines {
		for _, device := range []string{"", "/dev/x"} {
			for _, held := range []Engine{"", Overlay, ReflinkHost, PoolLoop, PoolDevice} {
				for _, reflink := range possible {
					for _, pools := range possible {
						h := Host{Held: held, Reflink: reflink, Pool: pools}
						got, err := Choose(want, device, h)
						fail := func(why string) { t.Errorf("Choose(%q, %q, %+v) = %+v, %v: %s", want, device, h, got, err, why) }
						if err != nil {
							if got.Engine != "" || errdefs.IsInvalidArgument(err) == errdefs.IsFailedPrecondition(err) {
								fail("error of no class, or beside a choice")
							}
							continue
						}
						switch e := got.Engine; {
						case e == Auto || e.Check() != nil:
							fail("no engine")
						case want != Auto && e != want:
							fail("not what was asked for")
						case held != "" && e != held && !(onHost(e) && onHost(held)):
							fail("hides the snapshots that are there")
						case e == ReflinkHost && reflink != nil, e == PoolLoop && pools != nil, e == PoolDevice && device == "":
							fail("doesn't work")
						}
					}
				}
			}
		}
	}
}
