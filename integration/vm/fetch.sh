#!/bin/sh
# Puts what the test VM is made of into a cache directory, once:
#
#   fetch.sh CACHE
#
#   CACHE/vm   Debian's cloud kernel with its modules, mkfs.xfs, CRIU with the ip that it
#              executes, and the libraries that they alone need, unpacked and not installed
#
# The rest comes from ../tools/build.sh and from the host: QEMU, mkfs.ext4, the C library, tar.
# A part is fetched again when this file changes; remove CACHE/vm to get a newer kernel.
set -eu

cache=${1:?usage: fetch.sh CACHE}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

# One at a time: two checkouts may share the cache.
exec 9>"$cache/lock"
flock 9

# current DIR KEY: whether DIR was completed for KEY.
current() { [ "$(cat "$1/.key" 2>/dev/null)" = "$2" ]; }

# kernel: the package with the kernel that the newest linux-image-cloud-amd64 stands for.
kernel() {
	name=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p')
	if [ -z "$name" ]; then
		echo "fetch.sh: apt knows no kernel for linux-image-cloud-amd64: run apt-get update (the VM needs Debian's packages)" >&2
		return 1
	fi
	echo "$name"
}

dir=$cache/vm
key=$(sha256sum <"$0")
current "$dir" "$key" && exit
image=$(kernel)
echo "unpacking from Debian: $image xfsprogs criu iproute2"
rm -rf "$dir" && mkdir -p "$dir/.deb"
(cd "$dir/.deb" && apt-get -qq -o APT::Sandbox::User=root download "$image" \
	xfsprogs libinih1 liburcu8 \
	criu libbsd0 libjansson4 libmd0 libmnl0 libnet1 libnftables1 libnftnl11 libnl-3-200 libprotobuf-c1 libxtables12 \
	iproute2 libbpf1 libcap2 libelf1)
for deb in "$dir"/.deb/*.deb; do dpkg-deb -x "$deb" "$dir"; done
rm -rf "$dir/.deb" "${dir:?}/usr/share"
echo "$key" >"$dir/.key"
