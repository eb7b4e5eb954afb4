# Writes the root of a small Debian to standard output, as a tar archive:
#
#	sh debian.sh DEBOOTSTRAP SUITE PACKAGES MIRROR
#
# It must run as the first process of a mount and a PID namespace of its own:
# every process and mount of it is gone when it is. Nothing is written to the
# disk. Messages go to standard error.
set -eu
debootstrap=$1 suite=$2 packages=$3 mirror=$4
exec 3>&1 >&2

mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 peregrine /mnt
"$debootstrap" --variant=minbase --include="$packages" \
	--keyring=/usr/share/keyrings/debian-archive-keyring.gpg "$suite" /mnt "$mirror"
echo "I: Packing"
cd /mnt
umount -l proc sys 2>/dev/null || :

# No file may be younger than the release that it comes from: that is the time of
# all that was made just now, so that the same release makes the same archive.
# Files of packages keep their times, which Python's compiled files rely on.
released=$(date -d "$(sed -n 's/^Date: //p' var/lib/apt/lists/*_Release)" +%s)

# What is not needed, and what differs from build to build or tells of this machine.
for dir in dev run tmp proc sys usr/share/doc usr/share/info usr/share/locale usr/share/man \
	var/cache/apt var/cache/ldconfig var/lib/apt/lists var/log; do
	find "$dir" -xdev -mindepth 1 ! -type d -delete
done
rm -rf dev/* usr/share/doc/* usr/share/locale/* usr/share/man/*
rm -f etc/hostname etc/*- var/cache/debconf/*-old var/lib/dpkg/*-old
for file in etc/resolv.conf etc/machine-id etc/apt/sources.list; do
	: >"$file"
	chmod 644 "$file"
done
sed -i 's/^\([^:]*:[^:]*\):[0-9]*:/\1:19700:/' etc/shadow

# The tar of that Debian, not of this machine: the same one everywhere.
chroot . tar --create --format=pax --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime \
	--sort=name --numeric-owner --mtime="@$released" --clamp-mtime --one-file-system \
	--xattrs --xattrs-include=security.capability -- * >&3
