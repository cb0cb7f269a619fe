#!/usr/bin/env bash
# All tests: unit, property, golden, network namespaces, CNI chains by cnitool, other kernels, and each fuzz target for a few
# seconds. As root, on a machine with nothing but rustup's cargo. The last line counts the tests.
#
#   scripts/test.sh              everything
#   scripts/test.sh --no-vm      without the other kernels
#   scripts/test.sh [--no-vm] -- ARGUMENT...    `cargo test` with these arguments, e.g. -- -p integration modes
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$PODGATE_ROOT"

kernels=(5.10 6.1)
if [ "${1:-}" = --no-vm ]; then kernels=() && shift; fi
if [ "${1:-}" = -- ]; then shift; elif [ $# -gt 0 ]; then die "unknown argument $1 (known: --no-vm, -- ARGUMENT...)"; fi
arguments=(--locked --no-fail-fast "$@")
everything=
[ $# -gt 0 ] || { everything=1 && arguments+=(--workspace); }

[ "$(id -u)" -eq 0 ] || die 'network namespaces and eBPF need root'
"$PODGATE_ROOT/scripts/setup.sh" --tests
logs=$(mktemp -d "$PODGATE_CACHE/test.XXXXXX")
running=()
# Each machine is a session of its own, so that an interrupted run takes the emulators with it.
trap 'for i in "${!running[@]}"; do pkill -s "${running[i]}" || true; done; rm -rf "$logs"' EXIT

step 'building the binaries (release)'
build_podgate
step 'building the tests'
cargo test "${arguments[@]}" --no-run --quiet

# Both machines at once, one core each, and nothing beside them: emulated ones are slow, and tests that measure time want
# the cores for themselves.
status=0
if [ ${#kernels[@]} -gt 0 ]; then
  step "other kernels: ${kernels[*]}"
  for kernel in "${kernels[@]}"; do
    PODGATE_VM_CPUS=${PODGATE_VM_CPUS:-1} PODGATE_VM_TIMEOUT=${PODGATE_VM_TIMEOUT:-1800} setsid "$PODGATE_ROOT/scripts/vm-test.sh" "$kernel" </dev/null >"$logs/vm-$kernel" 2>&1 &
    running+=($!)
  done
  for i in "${!kernels[@]}"; do
    wait "${running[i]}" || { status=1 && step "FAILED on kernel ${kernels[i]}"; }
    sed "s/^/${kernels[i]} | /" "$logs/vm-${kernels[i]}"
  done
  running=()
fi

if [ -n "$everything" ]; then
  step 'fuzz, 10 s a target'
  "$PODGATE_ROOT/scripts/fuzz.sh" 10 >"$logs/fuzz" 2>&1 || { status=1 && step 'FAILED: fuzz' && cat "$logs/fuzz"; }
  sed -n 's/^fuzz \([a-z]*\) .*/\1/p; s/^stat::number_of_executed_units: */  inputs: /p' "$logs/fuzz"
fi

step 'this kernel'
cargo test "${arguments[@]}" 2>&1 </dev/null | tee "$logs/here" || status=1

# Every test executable has its own summary; this is all of them.
step 'done'
cat "$logs"/* | sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed; \([0-9]*\) ignored.*/\1 \2 \3/p' |
  awk '{ passed += $1; failed += $2; skipped += $3 } END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }'
exit "$status"
