package host

// maxIdleWorkers is how many goroutines wait for the next actor that has something to do: their
// stacks have grown already, which costs more than most turns.
const maxIdleWorkers = 64

// dispatch has a goroutine work on an actor.
func (h *Host) dispatch(a *actor) {
	select {
	case h.idle <- a:
	default:
		h.work.Add(1)
		go h.worker(a)
	}
}

func (h *Host) worker(a *actor) {
	defer h.work.Done()
	for {
		a.run()
		if h.idlers.Add(1) > maxIdleWorkers {
			h.idlers.Add(-1)
			return
		}
		select {
		case a = <-h.idle:
			h.idlers.Add(-1)
		case <-h.ctx.Done():
			h.idlers.Add(-1)
			return
		}
	}
}
