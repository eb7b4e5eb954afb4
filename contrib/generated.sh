#!/bin/sh
# Proves that the committed BPF objects, and the code of PLASMA's protocol, are what their source
# makes: generates them again, in a copy at another path, and compares.
set -eu
bpf=netplugin/bpf
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
api=plasma/api
mkdir -p "$copy/$bpf" "$copy/$api"
cp go.mod go.sum "$copy"
cp "$bpf"/*.c "$bpf"/*.h "$bpf"/bpf.go "$copy/$bpf"
cp "$api"/*.proto "$api"/api.go "$api"/generate.sh "$copy/$api"
(cd "$copy" && "${GO:-go}" generate "./$bpf" "./$api") >/dev/null
for file in "$bpf"/*_bpfel.go "$bpf"/*_bpfel.o "$api"/*.pb.go; do
	cmp "$file" "$copy/$file" || {
		echo "$file is not what its source makes: make generate" >&2
		exit 1
	}
done
