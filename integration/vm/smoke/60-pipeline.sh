#!/bin/sh
# The network plugin on four cores and a kernel without tcx: the stages of receiving on cores
# of their own, in order; the shortcut and classes by older means.
set -euo pipefail

pipeline.test -test.v -test.timeout 20m
