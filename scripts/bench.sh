#!/usr/bin/env bash
# Measures, and asserts nothing.
#
#   scripts/bench.sh add [--rounds N] [--at-once N] [--json]
#   scripts/bench.sh revocation [ROUNDS]
#
# add: median time of podgate's ADD (programs loaded, policy known, both directions attached and recorded) next to the median of
#      the reference `tuning` plugin's ADD with the same prevResult in the same run, alone and 16 at once; prints the ratio.
# revocation: from a document (marked complete) to the last packet of the live streams that it revokes, in each direction, TCP and
#      UDP, both families, the servers sending every millisecond; smallest, median and largest of so many rounds (20).
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
  revocation)
    "$PODGATE_ROOT/scripts/setup.sh"
    cargo build --release --quiet --manifest-path "$PODGATE_ROOT/Cargo.toml"
    PODGATE_ROUNDS=${2:-20} cargo test --quiet --manifest-path "$PODGATE_ROOT/Cargo.toml" -p integration --test revocation \
      -- --nocapture live_streams | sed -n '/->/,/longest/p'
    ;;
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" ;;
  *) die "what to measure? (known: add, revocation)" ;;
esac
