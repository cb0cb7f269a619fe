#!/usr/bin/env bash
# Holds `policy::resolve` to the naive evaluator on random clusters, and writes what came of it.
#
#   scripts/random-clusters.sh [CLUSTERS [CHANGES]]
#
# CLUSTERS (100,000) random clusters: pods, policies of both kinds, Services. Every pod's verdict for every address and port,
# both directions, from resolve's documents is compared with the answer straight from the manifests. Then CHANGES (CLUSTERS / 20)
# random sequences of changes: what comes of them is what a fresh start comes to.
# Writes docs/evidence/resolve-random-clusters.txt. A difference ends it with the shrunk cluster and a code other than 0.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

case ${1:-} in
  -h | --help)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
    exit
    ;;
esac
clusters=${1:-100000}
changes=${2:-$((clusters / 20))}
evidence=$PODGATE_ROOT/docs/evidence/resolve-random-clusters.txt
cd "$PODGATE_ROOT"
cargo test --quiet --release -p policy --test resolve --no-run

# One test by name, with this many cases; its output without cargo's.
run() {
  PROPTEST_CASES=$2 cargo test --quiet --release -p policy --test resolve "$1" -- --exact --nocapture
}

begin=$SECONDS
counts=$(run random::random_clusters "$clusters" | tee /dev/stderr | grep '^random clusters:')
between=$SECONDS
run incremental::changes_come_to_what_a_fresh_start_comes_to "$changes" | tee /dev/stderr | grep -q '^test result: ok. 1 passed'
end=$SECONDS

mkdir -p "$(dirname "$evidence")"
{
  echo "# scripts/random-clusters.sh $clusters $changes"
  echo "date: $(date -u +%Y-%m-%dT%H:%M:%SZ)"
  echo "commit: $(git rev-parse HEAD)$(git diff --quiet HEAD -- policy || echo ' with changes')"
  echo "machine: $(nproc) cores, $(uname -sr)"
  echo "$counts"
  echo "time: $((between - begin)) s"
  echo "sequences of changes: $changes, wrong: 0"
  echo "time: $((end - between)) s"
} >"$evidence"
cat "$evidence"
