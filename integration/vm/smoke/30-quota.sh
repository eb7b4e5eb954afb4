#!/bin/sh
# The bound that a snapshot's max-size label asks for, on a kernel whose XFS has quotas:
# the pool's own test, which must not be skipped here.
set -euo pipefail
. /lib/smoke.sh

mkdir -p /var/tmp
export TMPDIR=/var/tmp
pool.test -test.v -test.run TestLimit | tee /run/smoke/output
grep -e '--- PASS: TestLimitWithQuotas' /run/smoke/output || fail "the test of quotas did not run"
