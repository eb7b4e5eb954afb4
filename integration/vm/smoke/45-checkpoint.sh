#!/bin/sh
# Checkpoint and restore by CRIU under the runtime io.containerd.flashcube.v1: a container
# that runs natively says how to have it, and one of the fall-back goes on where it was.
set -euo pipefail
. /lib/smoke.sh

runtime=io.containerd.flashcube.v1
pool=/run/flashcube/default

cleanup() {
	status=$?
	trap - EXIT
	for id in smoke-45-native smoke-45; do remove_container "$id"; done
	stop_daemon containerd
	stop_daemon flashcubed
	if [ "$status" != 0 ]; then
		show_log containerd
		show_log flashcubed
	fi
	exit "$status"
}
trap cleanup EXIT

ready() { [ -n "$(ls $pool/ready 2>/dev/null)" ]; }

cat >/run/smoke/config.toml <<-'EOT'
	version = 3
	root = "/var/lib/smoke-45"
EOT
# Without this CRIU stops packets with the programs of iptables. In runc.conf, which runc
# names to it, the option has CRIU 3.17 crash.
mkdir -p /etc/criu
echo 'network-lock nftables' >/etc/criu/default.conf
run_daemon flashcubed flashcubed
await_daemon flashcubed 60 ready || fail "no part got ready"
start_containerd /run/smoke/config.toml
ctr image import /images/busybox.tar
image=$(ctr image ls -q)

ctr run -d --runtime $runtime "$image" smoke-45-native sleep 1000
ctr task checkpoint smoke-45-native >/run/smoke/output 2>&1 && fail "a container that runs natively was checkpointed"
cat /run/smoke/output
grep -q 'create it with the annotation peregrine.dev/flashcube.fallback=true' /run/smoke/output || fail "the error does not say what to do"
ctr task ls | grep 'smoke-45-native .*RUNNING' || fail "the failed checkpoint stopped the container"

# It counts in memory and, so that it can be seen, on a tmpfs of its own, from a number that
# another start would not begin with.
cat >/run/smoke/count.sh <<-'EOT'
	i=$(date +%s)
	while :; do
		echo $i >>/run/count
		i=$((i + 1))
		sleep 0.1
	done
EOT
# find_count: from outside, as an exec takes runc seconds here.
find_count() { count=/proc/$(ctr task ls | awk '$1 == "smoke-45" { print $2 }')/root/run/count; }
counted() { [ "$(wc -l <"$count")" -ge "$1" ]; }
# goes_on FIRST: sees that the restored container has counted from FIRST, and still does.
goes_on() {
	find_count
	before=$(wc -l <"$count")
	wait_for 30 counted $((before + 5)) || fail "the restored container does not count"
	cat "$count" >/run/smoke/output
	seq "$1" "$(tail -n 1 /run/smoke/output)" | cmp - /run/smoke/output || fail "the restored container did not go on where it was"
}
fallbacks() { wc -c <"$pool/stats/fallback/$1"; }

ctr run -d --runtime $runtime --annotation peregrine.dev/flashcube.fallback=true "$image" smoke-45 \
	sh -c "$(cat /run/smoke/count.sh)"
find_count
wait_for 30 counted 5 || fail "the container does not count"
first=$(head -n 1 "$count")
ctr container checkpoint --task smoke-45 checkpoint
remove_container smoke-45
ctr container restore --live smoke-45 checkpoint
goes_on "$first"
remove_container smoke-45
[ "$(fallbacks asked-for)" = 2 ] || fail "the fall-backs were not counted"

# A container that would have run natively can be restored, too.
ctr container create --runtime $runtime "$image" smoke-45 sh -c "$(cat /run/smoke/count.sh)"
task-client restore smoke-45 checkpoint
goes_on "$first"
remove_container smoke-45
[ "$(fallbacks restore)" = 1 ] || fail "the fall-back was not counted"

remove_container smoke-45-native
left=$(find /sys/fs/cgroup -name 'smoke-45*')
[ -z "$left" ] || fail "cgroups are left: $left"
[ -z "$(ls $pool/claimed)" ] || fail "claimed parts are left: $(ls $pool/claimed)"
