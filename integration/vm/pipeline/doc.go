// Package pipeline has what the virtual machine runs to test the network plugin where there
// are four cores and an older kernel: the stages of receiving on cores of their own, and
// what stands in for what the kernel lacks. It has nothing but tests.
package pipeline
