#!/bin/sh
# Puts the stock parts that the demo, the benchmarks and the tests run against
# into a cache directory, once:
#
#   build.sh CACHE
#
#   CACHE/containerd-2.4   containerd, ctr, containerd-shim-runc-v2, from the module here
#   CACHE/containerd-1.7   the same of the 1.7 line, from the module in containerd17/
#   CACHE/debian           Debian's containerd 1.6, runc, crun with the library that a
#                          host may lack, and busybox, unpacked and not installed, so
#                          that nothing of the host is replaced
#   CACHE/lint             gofumpt and staticcheck, from the module in lint/
#
# A part is built again when what it is built from changes.
set -eu

cache=${1:?usage: build.sh CACHE}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

# One at a time: two checkouts may share the cache.
exec 9>"$cache/lock"
flock 9

# current DIR KEY: whether DIR was completed for KEY.
current() { [ "$(cat "$1/.key" 2>/dev/null)" = "$2" ]; }

# go_tools MODULE NAME LDFLAGS: builds the tools that a module pins.
go_tools() {
	key=$(cat "$here/$1/go.mod" "$here/$1/go.sum" "$0" | sha256sum)
	dir=$cache/$2
	current "$dir" "$key" && return
	echo "building $2 (a minute or two, once)"
	rm -rf "$dir" && mkdir -p "$dir"
	(cd "$here/$1" && GOBIN=$dir go install -trimpath -ldflags "-s -w $3" tool)
	echo "$key" >"$dir/.key"
}

# debian_parts PACKAGE...: downloads packages and unpacks them side by side.
debian_parts() {
	key=$(echo "$*" | cat - "$0" | sha256sum)
	dir=$cache/debian
	current "$dir" "$key" && return
	echo "unpacking from Debian: $*"
	rm -rf "$dir" && mkdir -p "$dir/.deb"
	(cd "$dir/.deb" && apt-get -qq -o APT::Sandbox::User=root download "$@")
	for deb in "$dir"/.deb/*.deb; do dpkg-deb -x "$deb" "$dir"; done
	rm -rf "$dir/.deb"
	echo "$key" >"$dir/.key"
}

version() { sed -n "s|^\t$1 v\([^ ]*\).*|\1|p" "$here/$2/go.mod"; }

v2=github.com/containerd/containerd/v2
v1=github.com/containerd/containerd
go_tools . containerd-2.4 "-X $v2/version.Version=v$(version $v2 .)"
go_tools containerd17 containerd-1.7 "-X $v1/version.Version=v$(version $v1 containerd17)"
go_tools lint lint ""
debian_parts containerd runc crun libyajl2 busybox-static
