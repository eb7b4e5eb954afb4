// Package cgroup makes, limits, watches and removes the cgroups of one
// container, on cgroup v1, hybrid and pure v2 hosts, with the meaning runc 1.1
// gives to linux.cgroupsPath and linux.resources under its cgroupfs driver.
//
// A [Host] is read once per process ([Warm]); it is immutable, so a shim reads
// it while it waits for work and pays nothing for it later. A [Cgroup] belongs
// to one container. Its life is [Host.New], [Cgroup.CreateUnified],
// [Cgroup.CreateOthers], the container's first process, told by
// [Cgroup.SetInit], [Cgroup.Set], then any of the other methods, then
// [Cgroup.Delete]. After the shim died, [Host.Load] gives a Cgroup from what
// [Cgroup.Paths] returned, good for everything except making it.
//
// What costs time is the kernel: about 60 µs for each v1 hierarchy, and a wait of
// 5 to 20 ms for the first process in a while that another moves ([Cgroup.Add]).
// A process need not be moved: it is born in the cgroup of v2 ([Cgroup.Dir]), and
// enters those of v1 by itself ([Cgroup.Tasks]).
//
// The systemd driver is not here: its callers hand the container to runc.
//
// Errors are typed with github.com/containerd/errdefs: ErrInvalidArgument is the
// user's doing, ErrNotImplemented means that runc should try,
// ErrFailedPrecondition that the host or the cgroup is in no state for it.
package cgroup
