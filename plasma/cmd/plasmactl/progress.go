package main

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress shows how far runs are, on a terminal. It may be used by several goroutines.
type progress struct {
	lock sync.Mutex
	bar  *progressbar.ProgressBar // nil without a terminal
	runs map[int]time.Duration
	sum  time.Duration
}

func newProgress(to io.Writer, all time.Duration) *progress {
	p := &progress{runs: map[int]time.Duration{}}
	if f, ok := to.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.bar = progressbar.NewOptions64(int64(all),
			progressbar.OptionSetWriter(f), progressbar.OptionSetDescription("simulating"),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(),
			progressbar.OptionSetPredictTime(true), progressbar.OptionSetElapsedTime(true))
	}
	return p
}

// set says how far a run is.
func (p *progress) set(run int, at time.Duration) {
	p.lock.Lock()
	defer p.lock.Unlock()
	p.sum += at - p.runs[run]
	p.runs[run] = at
	if p.bar != nil {
		_ = p.bar.Set64(int64(p.sum)) // a bar that can't be drawn is no reason to end
	}
}

func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
