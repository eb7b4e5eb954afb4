//go:build race

package sim

// slower is how much less the tests do under the race detector.
const slower = 10
