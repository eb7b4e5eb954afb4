#!/bin/sh
# The runtime's own tests of cgroups, on pure cgroup v2.
set -euo pipefail

cgroup.test -test.v
