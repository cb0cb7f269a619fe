#!/usr/bin/env bash
# Kubernetes' own NetworkPolicy tests against podgate in a real two-node cluster on this machine: the e2e specs `Netpol`, then
# the cases of cyclonus. An hour and more; results in OUT.
#
#   scripts/test-cluster.sh             both
#   scripts/test-cluster.sh e2e [FOCUS]
#   scripts/test-cluster.sh cyclonus [FLAG...]
#
#   PODGATE_CLUSTER_TOOL   folder with build.sh, up.sh, run-e2e.sh, run-cyclonus.sh, down.sh (../shared/cluster)
#   PODGATE_MODE, PODGATE_RESOLVE   see scripts/cluster/engine.sh
#   FAMILIES, MODE, PROCS, OUT      as that tool has them
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
tool=${PODGATE_CLUSTER_TOOL:-$PODGATE_ROOT/../shared/cluster}
[ -x "$tool/up.sh" ] || die "$tool/up.sh is missing: set PODGATE_CLUSTER_TOOL"
[ "$(id -u)" -eq 0 ] || die 'namespaces and eBPF need root'
export OUT=${OUT:-$PODGATE_CACHE/cluster-results}
what=${1:-all}
[ $# -eq 0 ] || shift

step 'building the binaries (release)'
build_podgate
step 'the cluster: binaries and images, ten minutes the first time'
mkdir -p "$OUT"
"$tool/build.sh" >"$OUT/build.log" 2>&1 || { tail -n 20 "$OUT/build.log"; die 'the cluster cannot be built'; }
trap 'KEEP_LOGS=$OUT/logs "$tool/down.sh" >/dev/null 2>&1 || true' EXIT
ENGINE=$PODGATE_ROOT/scripts/cluster/engine.sh "$tool/up.sh" 2
status=0
if [ "$what" = all ] || [ "$what" = e2e ]; then
  step 'e2e'
  OUT=$OUT/e2e "$tool/run-e2e.sh" "$@" || status=1
fi
if [ "$what" = all ] || [ "$what" = cyclonus ]; then
  step 'cyclonus'
  OUT=$OUT/cyclonus "$tool/run-cyclonus.sh" "$@" || status=1
fi
step "done: $OUT"
exit "$status"
