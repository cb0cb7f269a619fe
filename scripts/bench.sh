#!/usr/bin/env bash
# Measures, and asserts nothing.
#
#   scripts/bench.sh add [--rounds N] [--at-once N] [--json]
#
# add: median time of podgate's ADD (programs loaded, policy known, both directions attached and recorded) next to the median of
#      the reference `tuning` plugin's ADD with the same prevResult in the same run, alone and 16 at once; prints the ratio.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

case ${1:-} in
  add)
    shift
    "$PODGATE_ROOT/scripts/setup.sh"
    cargo build --release --quiet --manifest-path "$PODGATE_ROOT/Cargo.toml"
    exec "$PODGATE_ROOT/target/release/podgate-bench-add" "$@"
    ;;
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" ;;
  *) die "what to measure? (known: add)" ;;
esac
