#!/usr/bin/env bash
# A bounded fuzz run: the packet reader, walks of packets and changes, the compiler against the oracle. No nightly and no cargo-fuzz.
#
#   scripts/fuzz.sh [SECONDS]     so long each (60); ends with 0 where nothing was found
#
# What a run has learned is kept in $PODGATE_CACHE/fuzz/corpus, and the next one begins with it. What it finds stands in fuzz/artifacts:
# make a case with a name of it.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

seconds=${1:-60}
[[ $seconds =~ ^[0-9]+$ ]] || die "usage: $0 [SECONDS]"
mkdir -p "$PODGATE_CACHE/fuzz/corpus"
PODGATE_FUZZ_CORPUS=$PODGATE_CACHE/fuzz/corpus exec "$PODGATE_ROOT/fuzz/run.sh" all "$seconds"
