#!/usr/bin/env bash
# Random (documents, packet) pairs on the real programs, by BPF_PROG_TEST_RUN, against the oracle: enforcer/tests/million.rs.
#
#   scripts/million-pairs.sh [PAIRS [SEED]]     one million pairs; a random seed unless one is given
#
# The result is written to docs/evidence/million-pairs.txt. It ends with 0 where there was no difference; else each is shown with
# documents, frame and the seed of its chapter, and PODGATE_PAIRS=1 PODGATE_PAIRS_SEED=THAT runs the chapter again.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$PODGATE_ROOT"

pairs=${1:-1000000}
seed=${2:-0x$(od -An -N6 -tx8 /dev/urandom | tr -d ' ')}
evidence=docs/evidence/million-pairs.txt
say "seed $seed"
"$PODGATE_ROOT/scripts/setup.sh"
cargo test --locked --quiet -p enforcer --test million --no-run
result=$(mktemp)
trap 'rm -f "$result"' EXIT
status=0
PODGATE_PAIRS=$pairs PODGATE_PAIRS_SEED=$seed cargo test --locked --quiet -p enforcer --test million -- --nocapture >"$result" 2>&1 || status=$?
if [ "$status" -ne 0 ]; then
  cat "$result"
  exit "$status"
fi
mkdir -p "${evidence%/*}"
{
  say "scripts/million-pairs.sh $pairs $seed"
  say "$(date -u +%F), kernel $(uname -r), podgate $(git describe --always --dirty --exclude '*')"
  sed -n '/ pairs of /,/^$/p' "$result" | grep -v '^\.\?$\|^test result'
} >"$evidence"
cat "$evidence"
