package sim

import "fmt"

// checkReferences finds names of no actor, and calls that their receivers have no function for.
func (r *run) checkReferences() error {
	check := func(id string, of map[string][]string) error {
		i, ok := r.ids[id]
		if !ok {
			return fmt.Errorf("there is no actor %s", id)
		}
		for name, to := range of {
			p := r.property(name)
			for _, t := range to {
				k, ok := r.ids[t]
				if !ok {
					return fmt.Errorf("%s.%s refers to %s, and there is no such actor", id, name, t)
				}
				if err := r.callable(r.actors[i].typ, p, r.actors[k].typ); err != nil {
					return fmt.Errorf("%s.%s refers to %s: %w", id, name, t, err)
				}
			}
		}
		return nil
	}
	for i := range r.world.Actors {
		if err := check(r.world.Actors[i].ID, r.world.Actors[i].Refs); err != nil {
			return err
		}
	}
	for i := range r.world.Events {
		e := &r.world.Events[i]
		var err error
		switch {
		case e.Born != nil:
			err = check(e.Born.ID, e.Born.Refs)
		case e.Refs != nil:
			err = check(e.Refs.ID, e.Refs.Refs)
		case e.Dies != "":
			err = check(e.Dies, nil)
		}
		if err != nil {
			return fmt.Errorf("event at %s: %w", e.At, err)
		}
	}
	return nil
}

func (r *run) callable(from, property, to int32) error {
	for _, f := range r.types[from].functions {
		if f == none {
			continue
		}
		for _, c := range r.functions[f].calls {
			if c.property == property && r.types[to].functions[c.function] == none {
				return fmt.Errorf("%s.%s calls %s, which a %s hasn't", r.types[from].name,
					r.functions[f].name, r.functionNames[c.function], r.types[to].name)
			}
		}
	}
	return nil
}
