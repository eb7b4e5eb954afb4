package parity

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Cases is the table.
func Cases() []Case {
	return slices.Concat(
		processCases(), userCases(), argumentCases(), rawCases(), execCases(),
		mountCases(), propagationCases(), destinationCases(), pathCases(), attackCases(),
		namespaceCases(), userNamespaceCases(), kernelCases(), deviceCases(), cgroupCases(), seccompCases(),
		hookCases(), specCases(), newerCases(),
	)
}

func ptr[T any](v T) *T { return &v }

// change is for cases that need no place.
func change(f func(*specs.Spec)) func(*specs.Spec, *Place) {
	return func(s *specs.Spec, _ *Place) { f(s) }
}

// process is for cases that change the process.
func process(f func(*specs.Process)) func(*specs.Spec, *Place) {
	return func(s *specs.Spec, _ *Place) { f(s.Process) }
}

// bind mounts the place's directory at destination.
func bind(destination string, options ...string) func(*specs.Spec, *Place) {
	return func(s *specs.Spec, p *Place) {
		s.Mounts = append(s.Mounts, specs.Mount{
			Destination: destination, Type: "bind", Source: p.Dir + "/dir", Options: options,
		})
	}
}

// bindFile mounts the place's file at destination.
func bindFile(destination string, options ...string) func(*specs.Spec, *Place) {
	return func(s *specs.Spec, p *Place) {
		s.Mounts = append(s.Mounts, specs.Mount{
			Destination: destination, Type: "bind", Source: p.Dir + "/file", Options: options,
		})
	}
}

// mounts adds mounts.
func mounts(more ...specs.Mount) func(*specs.Spec, *Place) {
	return func(s *specs.Spec, _ *Place) { s.Mounts = append(s.Mounts, more...) }
}

// both applies changes one after the other.
func both(changes ...func(*specs.Spec, *Place)) func(*specs.Spec, *Place) {
	return func(s *specs.Spec, p *Place) {
		for _, c := range changes {
			c(s, p)
		}
	}
}
