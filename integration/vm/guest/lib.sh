# Functions for the smoke tests of the VM, which source this as /lib/smoke.sh.
# shellcheck shell=sh

# fail MESSAGE: ends the smoke test.
fail() {
	echo "$*" >&2
	exit 1
}

# wait_for SECONDS COMMAND...: polls until COMMAND succeeds, and fails after about SECONDS.
wait_for() {
	polls=$(($1 * 5))
	shift
	until "$@" >/dev/null 2>&1; do
		polls=$((polls - 1))
		[ "$polls" -gt 0 ] || return 1
		sleep 0.2
	done
}

# run_daemon NAME COMMAND...: starts a daemon; its pid and log are /run/smoke/NAME.{pid,log}.
run_daemon() {
	name=$1
	shift
	"$@" >"/run/smoke/$name.log" 2>&1 &
	echo $! >"/run/smoke/$name.pid"
}

# await_daemon NAME SECONDS COMMAND...: polls until COMMAND succeeds. Fails if the daemon
# ends first or after about SECONDS.
await_daemon() {
	name=$1
	seconds=$2
	shift 2
	wait_for "$seconds" answers_or_ended "$name" "$@" && daemon_runs "$name"
}

answers_or_ended() {
	daemon_runs "$1" || return 0
	shift
	"$@"
}

daemon_runs() { kill -0 "$(cat "/run/smoke/$1.pid")" 2>/dev/null; }

# stop_daemon NAME: ends a daemon started here and waits until it is gone.
stop_daemon() {
	[ -e "/run/smoke/$1.pid" ] || return 0
	pid=$(cat "/run/smoke/$1.pid")
	kill "$pid" 2>/dev/null || true
	wait "$pid" || true
	rm -f "/run/smoke/$1.pid"
}

# show_log NAME: the end of a daemon's log, for the console of a run that failed.
show_log() {
	[ -e "/run/smoke/$1.log" ] || return 0
	echo "--- the end of $1's log"
	tail -n 20 "/run/smoke/$1.log"
}

# start_containerd CONFIG: starts containerd and waits until it answers.
start_containerd() {
	run_daemon containerd containerd --config "$1"
	await_daemon containerd 60 ctr version || fail "containerd does not answer on its socket"
}

# remove_container NAME: kills and removes a container if it exists.
remove_container() {
	ctr task kill -s KILL "$1" >/dev/null 2>&1 || true
	wait_for 10 no_task "$1" || true
	ctr container rm "$1" >/dev/null 2>&1 || true
}

# no_task NAME: whether the container NAME has no task, having deleted one that stopped.
no_task() {
	ctr task rm "$1" >/dev/null 2>&1 || true
	! ctr task ls -q | grep -qx "$1"
}
