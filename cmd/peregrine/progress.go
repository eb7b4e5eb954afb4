package main

import (
	"fmt"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/peregrine-dev/peregrine/integration/images"
)

// newProgress shows long work on a terminal as a bar, elsewhere as a line a step.
func newProgress(to *os.File) images.Progress {
	var (
		last string
		bar  *progressbar.ProgressBar
		tty  = term.IsTerminal(int(to.Fd()))
	)
	return func(step string, done, total int64) {
		if step != last {
			last = step
			if bar != nil {
				_ = bar.Clear()
			}
			if !tty {
				fmt.Fprintln(to, step)
				return
			}
			if total == 0 {
				total = -1 // a spinner
			}
			bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(to), progressbar.OptionSetDescription(step),
				progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetWidth(30))
		}
		if bar != nil {
			_ = bar.Set64(done)
		}
	}
}
