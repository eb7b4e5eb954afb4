#!/bin/sh
# Stock containerd 2.4 with runc and overlayfs on pure cgroup v2: imports /images/busybox.tar,
# runs a container, and sees that all three are what they should be.
set -euo pipefail
. /lib/smoke.sh

cleanup() {
	status=$?
	trap - EXIT
	remove_container smoke-10
	stop_daemon containerd
	[ "$status" = 0 ] || show_log containerd
	exit "$status"
}
trap cleanup EXIT

cat >/run/smoke/config.toml <<-'EOF'
	version = 3
	root = "/var/lib/smoke-10"
EOF
start_containerd /run/smoke/config.toml
ctr version
runc --version | head -n 1

[ "$(stat -f -c %t /sys/fs/cgroup)" = 63677270 ] || fail "/sys/fs/cgroup is not cgroup2"
! grep -q ' - cgroup ' /proc/self/mountinfo || fail "a cgroup v1 hierarchy is mounted"

ctr image import /images/busybox.tar
image=$(ctr image ls -q)
ctr run --memory-limit 67108864 --mount type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro \
	"$image" smoke-10 sh -c '
	echo "kernel $(uname -r)"
	grep " / " /proc/mounts
	grep " /sys/fs/cgroup " /proc/mounts
	cat "/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.max"
	echo written >/file && cat /file
' | tee /run/smoke/output

said() { grep -q "$1" /run/smoke/output || fail "the container did not say: $1"; }
said "^kernel $(uname -r)\$"
said '^overlay / overlay rw'
said '^cgroup /sys/fs/cgroup cgroup2'
said '^67108864$'
said '^written$'
