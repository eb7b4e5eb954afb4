#!/bin/sh
# The snapshotter baoverlay behind stock containerd, with its pool on XFS in a loop device:
# imports /images/busybox.tar into it, runs a container that writes, and unmounts the pool.
set -euo pipefail
. /lib/smoke.sh

socket=/run/baoverlay/baoverlay.sock

cleanup() {
	status=$?
	trap - EXIT
	remove_container smoke-20
	stop_daemon containerd
	stop_daemon baoverlay
	if [ "$status" != 0 ]; then
		show_log containerd
		show_log baoverlay
	fi
	exit "$status"
}
trap cleanup EXIT

cat >/run/smoke/config.toml <<-EOF
	version = 3
	root = "/var/lib/smoke-20"
	[proxy_plugins.baoverlay]
	  type = "snapshot"
	  address = "$socket"
EOF
run_daemon baoverlay containerd-baoverlay-grpc --root /var/lib/baoverlay --address "$socket"
await_daemon baoverlay 60 test -S "$socket" || fail "containerd-baoverlay-grpc made no socket at $socket"
start_containerd /run/smoke/config.toml

grep '^[^ ]* /var/lib/baoverlay/pool[^ ]* xfs ' /proc/mounts || fail "no XFS pool at /var/lib/baoverlay/pool"

ctr image import --local --snapshotter baoverlay /images/busybox.tar
image=$(ctr image ls -q)
ctr run --snapshotter baoverlay "$image" smoke-20 sh -c '
	echo more >>/usr/share/peregrine/hello
	echo written >/file
	cat /usr/share/peregrine/hello /file
' | tee /run/smoke/output

printf 'hello\nmore\nwritten\n' | cmp - /run/smoke/output || fail "the container did not read what it wrote"

# With nothing left to run on it the pool goes when it is told to.
remove_container smoke-20
stop_daemon containerd
stop_daemon baoverlay
containerd-baoverlay-grpc --root /var/lib/baoverlay unmount
! grep ' /var/lib/baoverlay/pool' /proc/mounts || fail "the pool is still mounted"
