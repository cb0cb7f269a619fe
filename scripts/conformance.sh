#!/usr/bin/env bash
# Traffic conformance: a few hundred cases of NetworkPolicy, resolved by `podgatectl resolve`, judged by real connections between nine
# pods, in both modes and both families. As root. The last lines count cases, probes and wrong ones.
#
#   scripts/conformance.sh                       all cases
#   scripts/conformance.sh --short               the selection that `cargo test -p integration` runs
#   scripts/conformance.sh --only service -v     cases by a part of their name; -v prints each
#   scripts/conformance.sh --list                the names
#   scripts/conformance.sh --data DIR            your own cases: DIR/cases/*.yaml
#   scripts/conformance.sh --vm 6.1 --only sctp  on another kernel, in a virtual machine, with SCTP; emulated, so choose few cases
#
# PODGATE_BIN_DIR takes other binaries than target/release; cases are in integration/conformance.
set -euo pipefail
if [ -n "${PODGATE_BIN_DIR:-}" ]; then given=1; else given=; fi
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$PODGATE_ROOT"

[ "$(id -u)" -eq 0 ] || die 'network namespaces and eBPF need root'
[ -n "$given" ] || cargo build --locked --release --quiet
cargo build --locked --quiet -p integration --bins
binary=$PWD/target/debug/podgate-conformance
[ -z "${CARGO_TARGET_DIR:-}" ] || binary=$CARGO_TARGET_DIR/debug/podgate-conformance
if [ "${1:-}" = --vm ]; then
  [ $# -ge 2 ] || die "which kernel? (--vm 5.10, 6.1 or 6.12)"
  # shellcheck disable=SC2016 # these are the machine's
  exec "$PODGATE_ROOT/scripts/vm-test.sh" "$2" sh -c 'modprobe sctp && exec "$0" "$@"' "$binary" "${@:3}"
fi
exec "$binary" "$@"
