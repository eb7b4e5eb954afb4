// Command flashcube-init is the init of a cube, and the helper that brings further
// processes into a container. The shim runs it; nobody else does.
package main

import (
	"os"
	"runtime"

	"github.com/peregrine-dev/peregrine/shim/initproc"
)

func init() { runtime.LockOSThread() } // to the main thread, whose pid is the process's

func main() { initproc.Main(os.Args) }
