#!/usr/bin/env bash
# Instructions and verifier states of each program on each kernel: writes the table of docs/kernels.md anew.
#
#   scripts/vm-table.sh [KERNEL...]     this machine's kernel, then 5.10, 6.1 and 6.12 (or those named) in a virtual machine
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$PODGATE_ROOT"

kernels=("$@")
[ $# -gt 0 ] || kernels=(5.10 6.1 6.12)
page=docs/kernels.md
cargo build --locked --quiet -p enforcer --example verifier
program=${CARGO_TARGET_DIR:-$PODGATE_ROOT/target}/debug/examples/verifier

rows=$(mktemp)
trap 'rm -f "$rows" "$rows.out"' EXIT
for kernel in "${kernels[@]}"; do
  "$PODGATE_ROOT/scripts/vm-test.sh" "$kernel" "$program" >"$rows.out" || { cat "$rows.out" && die "kernel $kernel: no rows"; }
  tr -d '\r' <"$rows.out" | grep '^| ' >>"$rows"
done
"$program" >>"$rows"

# Everything up to the table's head stays as it is written.
sed -i '/^| kernel |/,/^$/d' "$page"
sed -i -e :a -e '/^\n*$/{$d;N;ba' -e '}' "$page"
{
  say
  say '| kernel | program | in the object | translated | machine code, bytes | verified | states | states at once | states per instruction |'
  say '|---|---|---|---|---|---|---|---|---|'
  cat "$rows"
} >>"$page"
sed -n '/^| kernel |/,$p' "$page"
