package global

import (
	"fmt"
	"time"

	"github.com/peregrine-dev/peregrine/plasma/epl"
	"github.com/peregrine-dev/peregrine/plasma/epl/ir"
	"github.com/peregrine-dev/peregrine/plasma/plan"
	"github.com/peregrine-dev/peregrine/plasma/service"
)

// policy is what a service is planned by.
type policy struct {
	text    string
	planner *plan.Planner
	period  time.Duration
}

// compile makes a service's policy. Where it has no limits on the number of servers, the
// service's are taken; a service without a policy has those only.
func compile(text string, spec *service.Spec, period time.Duration) (*policy, error) {
	tree, err := epl.Parse(spec.Name, []byte(text), epl.Full)
	if err != nil {
		return nil, err
	}
	program, err := ir.Compile(tree)
	if err != nil {
		return nil, err
	}
	limits := &program.Limits
	if limits.MinServers == 0 && limits.MaxServers == 0 {
		limits.MinServers, limits.MaxServers = spec.Servers.Min, spec.Servers.Max
	}
	limits.MinServers = max(limits.MinServers, 1)
	if limits.MaxServers > 0 && limits.MaxServers < limits.MinServers {
		return nil, fmt.Errorf("service %s: at most %d servers and at least %d", spec.Name, limits.MaxServers, limits.MinServers)
	}
	p := &policy{text: text, planner: plan.New(program), period: limits.Period}
	if p.period == 0 {
		p.period = period
	}
	return p, nil
}
