#!/bin/sh
# The network plugin on four cores and a kernel without tcx: the stages of receiving on cores
# of their own, in order; the shortcut and classes by older means.
set -euo pipefail

[ "$(nproc)" = 4 ] || { echo "it needs four cores" >&2; exit 1; }
pipeline.test -test.v -test.run "Machine|Order|Masks|Shortcut|Priority" -test.timeout 20m
