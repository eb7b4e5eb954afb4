#!/bin/sh
# The runtime io.containerd.flashcube.v1 behind stock containerd on pure cgroup v2: start,
# exec, update, stats, OOM, pause, delete, and the fall-back; nothing may be left.
set -euo pipefail
. /lib/smoke.sh

runtime=io.containerd.flashcube.v1
pool=/run/flashcube/default

cleanup() {
	status=$?
	trap - EXIT
	for id in smoke-40 smoke-40-oom smoke-40-fallback; do remove_container "$id"; done
	stop_daemon containerd
	stop_daemon flashcubed
	if [ "$status" != 0 ]; then
		show_log containerd
		show_log flashcubed
		find "$pool" || true
	fi
	exit "$status"
}
trap cleanup EXIT

ready() { [ -n "$(ls $pool/ready 2>/dev/null)" ]; }

cat >/run/smoke/config.toml <<-'EOT'
	version = 3
	root = "/var/lib/smoke-40"
EOT
run_daemon flashcubed flashcubed
await_daemon flashcubed 60 ready || fail "no part got ready"
start_containerd /run/smoke/config.toml

ctr image import /images/busybox.tar
image=$(ctr image ls -q)
ctr run -d --runtime $runtime --seccomp --memory-limit 67108864 "$image" smoke-40 sleep 1000
[ "$(wc -c <$pool/stats/hit)" = 1 ] || fail "the ready part was not claimed"
[ ! -e $pool/stats/fallback ] || fail "it fell back: $(ls $pool/stats/fallback)"

ctr task exec --exec-id one smoke-40 sh -c '
	cat /proc/self/cgroup
	grep -e Seccomp: -e NoNewPrivs /proc/self/status
	ip addr show lo
' | tee /run/smoke/output
said() { grep -q "$1" /run/smoke/output || fail "the container did not say: $1"; }
said '^0::/default/smoke-40$'
said 'Seccomp:.*2'
said 'NoNewPrivs:.*1'
said 'LOOPBACK,UP'

cgroup=$(find /sys/fs/cgroup -name smoke-40 -type d)
[ "$(cat "$cgroup/memory.max")" = 67108864 ] || fail "no memory limit"
ctr task metrics smoke-40 | tee /run/smoke/output
said 'memory.usage_limit *67108864'
task-client update smoke-40 '{"memory":{"limit":33554432},"pids":{"limit":50},"cpu":{"quota":20000,"period":100000}}'
limits() { cat "$cgroup/memory.max" "$cgroup/pids.max" "$cgroup/cpu.max" | paste -s -d ' ' -; }
[ "$(limits)" = '33554432 50 20000 100000' ] || fail "after the update its limits are $(limits)"
# What the kernel refuses changes nothing.
task-client update smoke-40 '{"pids":{"limit":60},"cpu":{"quota":1}}' >/run/smoke/output 2>&1 && fail "a quota of 1 us was taken"
said 'cpu.max: invalid argument'
[ "$(limits)" = '33554432 50 20000 100000' ] || fail "after the refused update its limits are $(limits)"
ctr task metrics smoke-40 | tee /run/smoke/output
said 'memory.usage_limit *33554432'
ctr task pause smoke-40
grep -q 'frozen 1' "$cgroup/cgroup.events" || fail "not frozen"
ctr task resume smoke-40
ctr task ps smoke-40
ctr task kill -s KILL smoke-40
remove_container smoke-40
[ ! -e "$cgroup" ] || fail "its cgroup is left"

# Devices are confined by a program in the kernel.
ctr run --rm --runtime $runtime "$image" smoke-40 sh -c 'mknod /tmp/m c 1 1 && cat /tmp/m' && fail "read /dev/mem"

# Out of memory.
ctr events >/run/smoke/events &
events=$!
ctr run --rm --runtime $runtime --memory-limit 16777216 "$image" smoke-40-oom \
	sh -c 'x=a; while :; do x=$x$x; done' && fail "it was not killed"
await_daemon containerd 10 grep -q /tasks/oom /run/smoke/events || fail "no event of running out of memory"
kill $events

# What isn't native runs under runc.
ctr run --rm --runtime $runtime --uidmap 0:1000:1000 --gidmap 0:1000:1000 "$image" smoke-40-fallback id | tee /run/smoke/output
said 'uid=0'
[ -e $pool/stats/fallback/user-namespace ] || fail "the fall-back was not counted"

[ -z "$(ls $pool/claimed)" ] || fail "claimed parts are left: $(ls $pool/claimed)"
! grep -q cube /proc/mounts || fail "mounts of cubes are in sight"
