#!/bin/sh
# Runs every fuzz target of the module for the time given.
set -eu
time=${1:?usage: fuzz.sh DURATION}
grep -rl --include='*_test.go' '^func Fuzz' . | while read -r file; do
	sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file" | while read -r target; do
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x "$(dirname "$file")"
	done
done
