#!/usr/bin/env bash
# Measures, and asserts nothing.
#
#   scripts/bench.sh add [--rounds N] [--at-once N] [--json]
#   scripts/bench.sh revocation [ROUNDS]
#   scripts/bench.sh apply [ROUNDS]
#   scripts/bench.sh scale [SHAPE]
#   scripts/bench.sh packet
#
# add: median time of podgate's ADD (programs loaded, policy known, both directions attached and recorded) next to the median of
#      the reference `tuning` plugin's ADD with the same prevResult in the same run, alone and 16 at once; prints the ratio.
# revocation: from a document (marked complete) to the last packet of the live streams that it revokes, in each direction, TCP and
#      UDP, both families, the servers sending every millisecond; smallest, median and largest of so many rounds (20).
# apply: from a file's rename to the changed policy state: one peer more among 10, 10,000 and 60,000, for 1 and 100 pods, with 0 and
#      10,000 unrelated documents in the store; and 100 policies changed within a second.
# scale: the companion with 250 endpoints and 1,000 and 10,000 policies (SHAPE: only those whose name has this word): start, memory,
#      CPU of a change that concerns nobody and of an idle minute, restart, explain; and `podgatectl resolve` of 10,000 pods.
#      Both print tables and lines of JSON beside design.md's figures.
# packet: the programs under BPF_PROG_TEST_RUN beside an empty one and beside a floor that makes the same look-ups and nothing else.
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
  apply | scale)
    "$PODGATE_ROOT/scripts/setup.sh"
    cargo build --release --quiet --manifest-path "$PODGATE_ROOT/Cargo.toml" --package cli --package companion
    case $1 in
      apply) export PODGATE_ROUNDS=${2:-7} ;;
      scale) [ -z "${2:-}" ] || export PODGATE_SHAPE=$2 ;;
    esac
    exec cargo bench --quiet --manifest-path "$PODGATE_ROOT/Cargo.toml" --package companion --bench "$1"
    ;;
  packet)
    "$PODGATE_ROOT/scripts/setup.sh"
    exec cargo bench --quiet --manifest-path "$PODGATE_ROOT/Cargo.toml" -p enforcer --bench packet
    ;;
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" ;;
  *) die "what to measure? (known: add, revocation, packet, apply, scale)" ;;
esac
