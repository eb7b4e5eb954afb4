#!/bin/sh
# Makes the Go code of the protocol's descriptions in this directory, with protoc and the plugins
# that go.mod names.
set -eu
cd "$(dirname "$0")"
plugins=$(mktemp -d)
trap 'rm -rf "$plugins"' EXIT
go=${GO:-go}
"$go" build -o "$plugins/" google.golang.org/protobuf/cmd/protoc-gen-go \
	google.golang.org/grpc/cmd/protoc-gen-go-grpc github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc
PATH="$plugins:$PATH"
protoc -I. --go_out=. --go_opt=paths=source_relative --go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative host.proto
protoc -I. --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative cluster.proto
