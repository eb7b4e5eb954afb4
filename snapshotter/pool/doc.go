// Package pool keeps the one file system with reflinks on which overlayfs
// finds both its lower and its upper directories, so that a copy-up is a clone.
//
// A pool is an XFS, either in an image file attached to a loop device or on a
// block device the administrator names. It is mounted in the host's mount
// namespace and stays mounted when the process that opened it exits or is
// killed: containers run on it. The space of an image file is allocated, never
// promised: a write that the pool accepts has its blocks on the host's disk.
//
// What decides (limits.go, superblock.go) is pure; what touches the kernel
// (attach.go, mount.go) is thin.
package pool
