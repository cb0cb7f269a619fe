#!/usr/bin/env bash
# Traffic conformance: a few hundred cases of NetworkPolicy, resolved by `podgatectl resolve`, judged by real connections between nine
# pods, in both modes and both families. As root. The last lines count cases, probes and wrong ones.
#
#   scripts/conformance.sh                       all cases
#   scripts/conformance.sh --short               the selection that `cargo test -p integration` runs
#   scripts/conformance.sh --only service -v     cases by a part of their name; -v prints each
#   scripts/conformance.sh --list                the names
#   scripts/conformance.sh --data DIR            your own cases: DIR/cases/*.yaml
#
# PODGATE_BIN_DIR takes other binaries than target/release; cases are in integration/conformance.
set -euo pipefail
if [ -n "${PODGATE_BIN_DIR:-}" ]; then given=1; else given=; fi
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$PODGATE_ROOT"

[ "$(id -u)" -eq 0 ] || die 'network namespaces and eBPF need root'
[ -n "$given" ] || build_podgate
cargo build --locked --quiet -p integration --bins
exec "${CARGO_TARGET_DIR:-target}/debug/podgate-conformance" "$@"
