#!/usr/bin/env bash
# Fuzzes for a bounded time, with what a stable toolchain and a C++ compiler have (no cargo-fuzz, no nightly needed).
#
#   fuzz/run.sh [TARGET [SECONDS]]      a target (reader, walk, policy) or all; 60 seconds each
#
# What it finds stands in fuzz/artifacts/TARGET: make a case of verdict/tests/corpus of it, with a name.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
targets=(reader walk policy)
[ "${1:-all}" = all ] || targets=("$1")
seconds=${2:-60}
triple=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Clink-dead-code -Ccodegen-units=1"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}
cargo build --quiet --release --target "$triple"
corpus=${PODGATE_FUZZ_CORPUS:-corpus}
for target in "${targets[@]}"; do
  mkdir -p "$corpus/$target" "artifacts/$target"
  echo "fuzz $target for $seconds s"
  "$CARGO_TARGET_DIR/$triple/release/$target" "$corpus/$target" -max_total_time="$seconds" -max_len=4096 \
    -artifact_prefix="artifacts/$target/" -print_final_stats=1 -verbosity=0 2>&1 | grep -v "^\(\"\|###\)"
done
