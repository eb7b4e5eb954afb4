package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/netplugin/endpoint"
	"github.com/peregrine-dev/peregrine/netplugin/fastpath"
	"github.com/peregrine-dev/peregrine/netplugin/pipeline"
)

const (
	// rpsFile remembers the masks that were set, in the agent's directory.
	rpsFile = "rps.json"
	// metered is how often the programs are told how busy cores are.
	metered = 250 * time.Millisecond
	// governed and mended are how many of these times pass between two decisions, and until
	// it is looked after what somebody else took away.
	governed, mended = 4, 60
)

// spread is the agent's part in spreading the stages of receiving over cores.
type spread struct {
	mode  pipeline.Mode
	cores *pipeline.Cores // nil: none are moved, as why says
	why   string

	mu     sync.Mutex
	report PipelineReport
}

// PipelineReport is how the stages of receiving are spread over cores.
type PipelineReport struct {
	On  bool
	Why string // a sentence: why it is on, or off
	// Problem is what could not be done of it.
	Problem string         `json:",omitempty"`
	Cores   string         `json:",omitempty"` // of each stage
	Loads   map[int]uint32 `json:",omitempty"` // per mille, by CPU
	// Foreign are queues of containers that somebody else has spread.
	Foreign []ForeignQueue `json:",omitempty"`
}

// ForeignQueue is a receive queue of a container, with the CPUs that somebody else spreads
// its packets over. It is left so.
type ForeignQueue struct{ Container, Interface, Queue, CPUs string }

func (s *spread) get() PipelineReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.report
	r.Loads, r.Foreign = maps.Clone(r.Loads), slices.Clone(r.Foreign)
	return r
}

func (s *spread) set(r PipelineReport) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report = r
}

// planPipeline finds the cores of the stages, and tells whether there may be a pipeline.
func (a *Agent) planPipeline(ctx context.Context) bool {
	s := &a.pipeline
	if s.mode = pipeline.Mode(a.config.Pipeline.Mode); s.mode == pipeline.Off {
		s.why = "so says the configuration"
		return false
	}
	var err error
	if s.cores, s.why, err = a.stages(); err != nil {
		s.why = err.Error()
		log.G(ctx).WithError(err).Warn("stages of receiving stay on one core")
	}
	return s.cores != nil
}

func (a *Agent) stages() (*pipeline.Cores, string, error) {
	usable, err := pipeline.UsableCPUs()
	if err != nil {
		return nil, "", err
	}
	configured, err := pipeline.ParseList(a.config.Pipeline.Cores)
	if err != nil {
		return nil, "", err
	}
	return pipeline.Plan(usable, configured)
}

// runPipeline moves stages to cores as long as that pays, until ctx is done: then all stays
// as it is, and the programs stop by themselves. Where there are too few cores, or it isn't
// wanted, it takes away what an earlier agent left, and returns.
func (a *Agent) runPipeline(ctx context.Context, looked <-chan struct{}) error {
	select {
	case <-looked: // by then the VXLAN devices are there
	case <-ctx.Done():
		return nil
	}
	path, s := a.shortcut.get(), &a.pipeline
	if path == nil && s.cores != nil {
		s.cores, s.why = nil, "the programs that move packets could not be loaded"
	}
	rps, err := pipeline.OpenRPS(filepath.Join(a.root, rpsFile))
	if err != nil {
		s.set(PipelineReport{Why: "off: " + err.Error()})
		log.G(ctx).WithError(err).Warn("stages of receiving stay on one core")
		return nil // packets go on without
	}
	r := &run{agent: a, path: path, rps: rps, masks: map[key]uint64{}}
	if s.cores == nil {
		s.set(PipelineReport{Why: "off: " + s.why, Problem: text(r.stop())})
		return nil
	}
	r.governor, r.cores = pipeline.NewGovernor(s.mode, s.cores, s.why), s.cores
	r.meter = pipeline.NewMeter(s.cores.All())
	ticker := time.NewTicker(metered)
	defer ticker.Stop()
	for n := 0; ; n++ {
		err := r.measure()
		if err == nil && n%governed == 0 {
			err = r.decide(time.Now(), n%mended == 0)
		}
		r.tell(ctx, err, n%governed == 0)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// run is of one goroutine.
type run struct {
	agent    *Agent
	path     *fastpath.Fastpath
	rps      *pipeline.RPS
	governor *pipeline.Governor
	meter    *pipeline.Meter
	cores    *pipeline.Cores // nil: CPUs went, and the rest is too few

	stat     pipeline.Stat // the last one
	load     pipeline.Load
	judged   pipeline.Stat // that of the last decision
	received uint64        // packets until then

	on      *pipeline.Cores // those in force; nil: off
	begun   bool            // on says what is so
	partial error           // which part of it could not be done
	masks   map[key]uint64  // the containers whose masks are set, by namespace
	gone    bool            // some of these have gone since
	foreign map[key][]pipeline.Foreign
	problem string
}

// measure tells the programs how busy cores are.
func (r *run) measure() error {
	stat, err := pipeline.ReadStat()
	if err != nil {
		return err
	}
	if r.stat != nil && !sameCPUs(r.stat, stat) {
		if err := r.replan(); err != nil {
			return err
		}
	}
	r.stat, r.load = stat, r.meter.Add(stat)
	if r.on == nil {
		return nil
	}
	return r.path.SetLoads(r.load)
}

// sameCPUs tells whether the same CPUs are online.
func sameCPUs(a, b pipeline.Stat) bool {
	return maps.EqualFunc(a, b, func(pipeline.Times, pipeline.Times) bool { return true })
}

// replan is for CPUs that came or went.
func (r *run) replan() error {
	cores, why, err := r.agent.stages()
	if err != nil {
		cores, why = nil, err.Error()
	}
	r.governor.SetCores(cores, why)
	r.cores, r.meter = cores, pipeline.NewMeter(nil)
	if cores != nil {
		r.meter = pipeline.NewMeter(cores.All())
	}
	return err
}

// decide turns it on or off, and has containers that came since take part.
func (r *run) decide(now time.Time, mend bool) error {
	received, err := r.path.Received()
	if err != nil {
		return err
	}
	sample := pipeline.Sample{At: now, Load: r.load}
	if r.judged != nil {
		sample.Busy = r.stat.Busy(r.judged)
		if received > r.received { // a device may have gone
			sample.Packets = received - r.received
		}
	}
	r.judged, r.received = r.stat, received
	if !r.governor.Observe(sample).On {
		if r.begun && r.on == nil {
			return nil
		}
		return r.stop()
	}
	if r.on != r.cores || mend {
		if err := r.start(); err != nil {
			return err
		}
	}
	return errors.Join(r.partial, r.spread(r.cores.Veth))
}

// start puts it into force, or mends it.
func (r *run) start() error {
	if err := r.path.SetLoads(r.load); err != nil {
		return err
	}
	if r.partial = r.path.SetPipeline(r.cores); errdefs.IsNotImplemented(r.partial) {
		return r.partial
	}
	if r.on != r.cores {
		clear(r.masks)
	}
	r.on, r.begun = r.cores, true
	if !r.gone {
		return nil
	}
	live, err := r.namespaces()
	defer closeAll(live)
	if err == nil {
		err = r.rps.Retain(slices.Collect(maps.Values(live))...)
	}
	r.gone = err != nil
	return err
}

// stop leaves nothing of it behind, of whatever agent.
func (r *run) stop() error {
	var errs error
	if r.path != nil {
		errs = r.path.SetPipeline(nil)
	}
	if r.rps.Holds() {
		live, err := r.namespaces()
		defer closeAll(live)
		errs = errors.Join(errs, err)
		for k, ns := range live {
			// What somebody changed since is his.
			if _, err := r.rps.Restore(ns); err != nil {
				errs = errors.Join(errs, fmt.Errorf("container %s: %w", k.container, err))
			}
		}
		if errs == nil {
			errs = r.rps.Retain(slices.Collect(maps.Values(live))...)
		}
	}
	clear(r.masks)
	r.foreign, r.on, r.partial, r.begun = nil, nil, nil, errs == nil
	return errs
}

// namespaces opens those of all containers. The caller closes them.
func (r *run) namespaces() (map[key]*os.File, error) {
	var errs error
	all := map[key]*os.File{}
	for _, e := range r.agent.records() {
		ns, err := namespaceOf(e)
		if err == nil {
			all[keyOf(e)] = ns
		} else if !errdefs.IsNotFound(err) {
			errs = errors.Join(errs, fmt.Errorf("container %s: %w", e.ContainerID, err))
		}
	}
	return all, errs
}

func closeAll(files map[key]*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// spread sets the masks of containers that have none yet, and forgets those that are gone.
func (r *run) spread(cpus []int) error {
	var errs error
	there := map[key]bool{}
	for _, e := range r.agent.records() {
		k := keyOf(e)
		if there[k] = true; !e.Complete || r.masks[k] == e.NamespaceInode {
			continue
		}
		ns, err := namespaceOf(e)
		if errdefs.IsNotFound(err) {
			continue
		}
		var foreign []pipeline.Foreign
		if err == nil {
			foreign, err = r.rps.Set(ns, e.IfName, cpus)
			ns.Close()
		}
		if err != nil && !errdefs.IsNotFound(err) {
			errs = errors.Join(errs, fmt.Errorf("container %s: %w", e.ContainerID, err))
			continue
		}
		r.masks[k] = e.NamespaceInode
		if r.foreign == nil {
			r.foreign = map[key][]pipeline.Foreign{}
		}
		r.foreign[k] = foreign
	}
	before := len(r.masks)
	maps.DeleteFunc(r.masks, func(k key, _ uint64) bool { return !there[k] })
	maps.DeleteFunc(r.foreign, func(k key, _ []pipeline.Foreign) bool { return !there[k] })
	r.gone = r.gone || len(r.masks) != before
	return errs
}

// namespaceOf opens a container's network namespace; errdefs.ErrNotFound if it is gone, or
// another has its path.
func namespaceOf(e *endpoint.Record) (*os.File, error) {
	ns, err := os.Open(e.Namespace)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	var is unix.Stat_t
	if err = unix.Fstat(int(ns.Fd()), &is); err == nil && is.Ino != e.NamespaceInode {
		err = fmt.Errorf("%s is another namespace: %w", e.Namespace, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

// tell says how it is, in the log what changed.
func (r *run) tell(ctx context.Context, err error, decided bool) {
	before := r.agent.pipeline.get()
	d := r.governor.Decision()
	now := PipelineReport{On: r.on != nil, Why: d.Why, Problem: before.Problem, Loads: r.load.Core, Foreign: before.Foreign}
	if r.cores != nil {
		now.Cores = r.cores.String()
	}
	if decided || err != nil {
		now.Problem = text(err)
		now.Foreign = nil
		for k, all := range r.foreign {
			for _, f := range all {
				now.Foreign = append(now.Foreign, ForeignQueue{k.container, f.Link, f.Queue, pipeline.FormatList(f.CPUs)})
			}
		}
	}
	r.agent.pipeline.set(now)
	entry := log.G(ctx).WithField("why", now.Why)
	if now.On != before.On && now.On {
		entry.WithField("cores", now.Cores).Info("the stages of receiving are on cores of their own")
	} else if now.On != before.On {
		entry.Info("the stages of receiving are on one core")
	}
	if now.Problem != "" && now.Problem != r.problem {
		log.G(ctx).WithField("problem", now.Problem).Warn("the stages of receiving are not spread as they should be")
	}
	r.problem = now.Problem
}

// text is an error's, "" for none.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
