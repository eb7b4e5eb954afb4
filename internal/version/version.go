// Package version says which release a binary is of.
package version

// Version is set by the linker; a binary built by hand says so.
var Version = "devel"
