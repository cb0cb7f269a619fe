#!/usr/bin/env bash
# Holds `resolve` to the naive evaluator on random clusters, and writes what came of it.
#
#   scripts/random-clusters.sh [CLUSTERS [CHANGES]]
#
# CLUSTERS (100,000) random clusters: pods, policies of both kinds, Services. Every pod's verdict for every address and port,
# both directions, from resolve's documents is compared with the answer straight from the manifests. Then CHANGES (CLUSTERS / 20)
# random sequences of changes: what comes of them is what a fresh start comes to.
# In batches of 2,500, JOBS (one a core) at once. Writes docs/evidence/resolve-random-clusters.txt. A difference ends it with the
# shrunk cluster and a code other than 0.
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
jobs=${JOBS:-$(nproc)}
size=2500
evidence=$PODGATE_ROOT/docs/evidence/resolve-random-clusters.txt
cd "$PODGATE_ROOT"
cargo test --quiet --release -p resolve --test resolve --no-run
commit=$(git rev-parse HEAD)$(git diff --quiet HEAD -- resolve policy || echo ' with changes')
binary=$(cargo test --release -p resolve --test resolve --no-run --message-format=json 2>/dev/null |
  sed -n 's/.*"executable":"\([^"]*\/deps\/resolve-[^"]*\)".*/\1/p' | tail -1)
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# One batch of one test's cases; a batch that fails shows what it found.
batch() {
  local name=$1 number=$2 cases=$3
  PROPTEST_CASES=$cases "$binary" "$name" --exact --nocapture >"$logs/$name.$number" 2>&1 || {
    cat "$logs/$name.$number" >&2
    return 255
  }
  grep -q "^test result: ok. 1 passed" "$logs/$name.$number"
}
export -f batch
export binary logs

# One test by name, so many cases in all, in batches.
run() {
  local name=$1 left=$2 number=0
  while [ "$left" -gt 0 ]; do
    echo "$name $((number++)) $((left < size ? left : size))"
    left=$((left - size))
  done | xargs -P "$jobs" -L 1 bash -c 'batch "$@"' batch
}

begin=$SECONDS
run random::random_clusters "$clusters"
between=$SECONDS
run incremental::changes_come_to_what_a_fresh_start_comes_to "$changes"
end=$SECONDS

mkdir -p "$(dirname "$evidence")"
{
  echo "# scripts/random-clusters.sh $clusters $changes"
  echo "date: $(date -u +%Y-%m-%dT%H:%M:%SZ)"
  echo "commit: $commit"
  echo "machine: $(nproc) cores, $(uname -sr)"
  cat "$logs"/random::* | sed -n 's/^random clusters: \([0-9]*\), questions: \([0-9]*\), wrong: \([0-9]*\)$/\1 \2 \3/p' |
    awk '{ c += $1; q += $2; w += $3 } END { printf "random clusters: %d, questions: %d, wrong: %d\n", c, q, w }'
  echo "time: $((between - begin)) s, $jobs at once"
  echo "sequences of changes: $changes, wrong: 0"
  echo "time: $((end - between)) s, $jobs at once"
} >"$evidence"
cat "$evidence"
