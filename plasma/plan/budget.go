package plan

import (
	"math"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/model"
)

// budget is how many more moves the limits allow.
type budget struct {
	left      int
	unlimited bool
	before    []model.Spent // within the limit's time
}

func newBudget(l ir.Limits, s *model.Snapshot, m *model.Memory) budget {
	if l.Per <= 0 {
		return budget{left: math.MaxInt, unlimited: true}
	}
	allowed := l.Moves
	if l.MovesShare > 0 {
		allowed = max(1, int(l.MovesShare*float64(len(s.Actors))))
	}
	b := budget{left: allowed}
	for _, spent := range m.Budget {
		if s.At-spent.At < l.Per {
			b.before = append(b.before, spent)
			b.left -= spent.Moves
		}
	}
	b.left = max(b.left, 0)
	return b
}

// take spends so many moves, if they are left.
func (b *budget) take(n int) bool {
	if n > b.left {
		return false
	}
	b.left -= n
	return true
}

// spent is what the next plan has to know.
func (b *budget) spent(now time.Duration, moved int) []model.Spent {
	if moved == 0 || b.unlimited {
		return b.before
	}
	return append(b.before, model.Spent{At: now, Moves: moved})
}
