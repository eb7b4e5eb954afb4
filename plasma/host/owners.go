package host

import (
	"sync"
	"sync/atomic"

	"github.com/peregrine-dev/peregrine/plasma/api"
	"github.com/peregrine-dev/peregrine/plasma/placement"
)

// owners is who has which actor: the placement as plasmad sends it, and what this host knows
// before, from the moves that it took part in.
type owners struct {
	view *placement.View

	size  atomic.Int32
	mu    sync.RWMutex
	known map[placement.Actor]placement.Owner
}

func newOwners() *owners {
	return &owners{view: placement.NewView(), known: map[placement.Actor]placement.Owner{}}
}

func (o *owners) owner(a placement.Actor) (placement.Owner, bool) {
	owner, ok := o.view.Owner(a)
	if o.size.Load() == 0 {
		return owner, ok
	}
	o.mu.RLock()
	known, has := o.known[a]
	o.mu.RUnlock()
	if has && (!ok || known.Epoch > owner.Epoch) {
		return known, true
	}
	return owner, ok
}

// learn takes in a move that is committed.
func (o *owners) learn(a placement.Actor, owner placement.Owner) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if known, ok := o.known[a]; !ok || known.Epoch < owner.Epoch {
		o.known[a] = owner
		o.size.Store(int32(len(o.known)))
	}
}

// apply takes in a placement, and forgets what it says too.
func (o *owners) apply(p *api.Placement) error {
	if err := o.view.Apply(p); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for a, known := range o.known {
		if owner, ok := o.view.Owner(a); ok && owner.Epoch >= known.Epoch {
			delete(o.known, a)
		}
	}
	o.size.Store(int32(len(o.known)))
	return nil
}
