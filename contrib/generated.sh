#!/bin/sh
# Proves that the committed BPF objects are what their source makes: generates them again, in
# a copy at another path, and compares.
set -eu
bpf=netplugin/bpf
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
mkdir -p "$copy/$bpf"
cp go.mod go.sum "$copy"
cp "$bpf"/*.c "$bpf"/*.h "$bpf"/bpf.go "$copy/$bpf"
(cd "$copy" && "${GO:-go}" generate "./$bpf") >/dev/null
for file in "$bpf"/*_bpfel.go "$bpf"/*_bpfel.o; do
	cmp "$file" "$copy/$file" || {
		echo "$file is not what its source makes: make generate" >&2
		exit 1
	}
done
