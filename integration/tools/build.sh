#!/bin/sh
# Puts the stock parts that the demo, the benchmarks and the tests run against
# into a cache directory, once:
#
#   build.sh CACHE
#
#   CACHE/containerd-2.4   containerd, ctr, containerd-shim-runc-v2, from the module here
#   CACHE/containerd-1.7   the same of the 1.7 line, from the module in containerd17/
#   CACHE/debian           Debian's containerd 1.6, runc, crun, busybox, etcd, the
#                          reference CNI plugins, nft, iptables, tcpdump, memcached,
#                          nginx and wrk, unpacked and not installed, so that nothing of
#                          the host is replaced
#   CACHE/lint             gofumpt and staticcheck, from the module in lint/
#
# A part is built again when what it is built from changes.
#
# What is unpacked finds its own parts by these, given to nothing else:
#
#   PATH             CACHE/debian/{usr/sbin,usr/bin,sbin,bin,usr/lib/cni}
#   LD_LIBRARY_PATH  CACHE/debian/usr/lib/MULTIARCH:CACHE/debian/lib/MULTIARCH
#   XTABLES_LIBDIR   CACHE/debian/usr/lib/MULTIARCH/xtables
#
# MULTIARCH is Debian's name of the architecture, as x86_64-linux-gnu.
# tcpdump wants -Z root, for want of the user that installing would make.
set -eu

cache=${1:?usage: build.sh CACHE}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

# One at a time: two checkouts may share the cache.
exec 9>"$cache/lock"
flock 9

# how FUNCTION: its text, for the key of what it makes.
how() { sed -n "/^$1() {\$/,/^}\$/p" "$0"; }

# current DIR KEY: whether DIR was completed for KEY.
current() { [ "$(cat "$1/.key" 2>/dev/null)" = "$2" ]; }

# go_tools MODULE NAME LDFLAGS: builds the tools that a module pins.
go_tools() {
	key=$({ cat "$here/$1/go.mod" "$here/$1/go.sum" && echo "$3" && how go_tools; } | sha256sum)
	dir=$cache/$2
	current "$dir" "$key" && return
	echo "building $2 (a minute or two, once)"
	rm -rf "$dir" && mkdir -p "$dir"
	(cd "$here/$1" && GOBIN=$dir go install -trimpath -ldflags "-s -w $3" tool)
	echo "$key" >"$dir/.key"
}

# debian_parts PACKAGE...: downloads packages and unpacks them side by side. What
# was there before goes only when the new is complete.
debian_parts() {
	key=$({ echo "$*" && how debian_parts; } | sha256sum)
	dir=$cache/debian
	current "$dir" "$key" && return
	echo "unpacking from Debian: $*"
	new=$dir.new
	rm -rf "$new" && mkdir -p "$new/.deb"
	(cd "$new/.deb" && apt-get -qq -o APT::Sandbox::User=root download "$@")
	for deb in "$new"/.deb/*.deb; do dpkg-deb -x "$deb" "$new"; done
	rm -rf "$new/.deb"
	# The alternatives that installing would set.
	for name in iptables ip6tables; do
		for suffix in "" -save -restore; do
			ln -s xtables-nft-multi "$new/usr/sbin/$name$suffix"
		done
	done
	echo "$key" >"$new/.key"
	rm -rf "$dir" && mv "$new" "$dir"
}

version() { sed -n "s|^\t$1 v\([^ ]*\).*|\1|p" "$here/$2/go.mod"; }

v2=github.com/containerd/containerd/v2
v1=github.com/containerd/containerd
go_tools . containerd-2.4 "-X $v2/version.Version=v$(version $v2 .)"
go_tools containerd17 containerd-1.7 "-X $v1/version.Version=v$(version $v1 containerd17)"
go_tools lint lint ""
debian_parts \
	containerd runc crun libyajl2 busybox-static \
	etcd-server containernetworking-plugins \
	nftables libnftables1 libnftnl11 libmnl0 libjansson4 libedit2 libbsd0 libmd0 \
	iptables libxtables12 libip4tc2 libip6tc2 libnetfilter-conntrack3 libnfnetlink0 \
	tcpdump libpcap0.8 libdbus-1-3 libssl3 \
	memcached libevent-2.1-7 libsasl2-2 \
	nginx libpcre2-8-0 libcrypt1 zlib1g \
	wrk libluajit2-5.1-2
