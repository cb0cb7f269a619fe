#!/usr/bin/env bash
# Boots another kernel over this machine's file system (read-only), runs a command in it as root and ends with its code.
#
#   scripts/vm-test.sh 5.10|6.1|6.12 [COMMAND [ARGUMENT...]]
#   scripts/vm-test.sh 6.1 --full [TEST...]
#   scripts/vm-test.sh 6.1 sh -c 'uname -r; tc -V'
#
# Without a command: the programs load and pods are enforced (the tests whose names begin with `kernel_`), built here
# beforehand. --full: all tests of enforcer/ and integration/, or those of the test executables named (attacks, policy, ...);
# give it hours by PODGATE_VM_TIMEOUT. In the machine:
# /sys/fs/bpf is a bpffs, /tmp, /run and /var are memory, PODGATE_VM is the kernel's series, $PODGATE_VM_DIR is a folder that
# stays behind where it is set on the outside.
# A machine that hangs is ended after PODGATE_VM_TIMEOUT seconds (900). It is emulated, so everything is slow: 10 to 30 s to
# the first line on two busy cores. PODGATE_VM_CPUS (2), PODGATE_VM_MEMORY (2G).
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

series=${1:-}
[[ $series =~ ^[0-9]+\.[0-9]+$ ]] || die "usage: $0 5.10|6.1|6.12 [COMMAND...]"
shift
kernel=$PODGATE_CACHE/kernels/$series/vmlinuz
if [ ! -e "$kernel" ] || ! command -v vng >/dev/null; then
  "$PODGATE_ROOT/scripts/setup.sh" --tests
  [ -e "$kernel" ] || "$PODGATE_ROOT/scripts/fetch-kernel.sh" "$series"
fi

full=
wanted='[]'
if [ "${1:-}" = --full ]; then
  full=1
  shift
  wanted=$(jq -cn '$ARGS.positional' --args -- "$@")
  set --
fi

# Test executables of packages; the last argument says what of each, as jq does.
test_executables() {
  cargo test --locked "${@:1:$#-1}" --no-run --quiet --message-format=json-render-diagnostics |
    jq -r "select(.reason == \"compiler-artifact\" and .profile.test and .executable != null) | ${*: -1}"
}

# One line a test executable that has tests for other kernels, with their names: the machine has no cargo, and no time for
# executables that have none.
kernel_tests() {
  cd "$PODGATE_ROOT"
  build_podgate
  local executables executable names
  if [ -n "$full" ]; then
    # Each in its crate's folder, as cargo runs it.
    test_executables -p enforcer -p integration "select(.target.name as \$name | $wanted | . == [] or index(\$name) != null)"' | "env -C \(.manifest_path | rtrimstr("/Cargo.toml")) \(.executable)"'
    return
  fi
  executables=$(test_executables --workspace .executable)
  for executable in $executables; do
    names=$("$executable" kernel_ --list --format terse | sed -n '/^\(.*::\)\{0,1\}kernel_[^:]*: test$/s/: test$//p' | paste -sd' ')
    [ -z "$names" ] || say "$executable --exact $names"
  done
}

folder=${PODGATE_VM_DIR:-}
if [ -z "$folder" ]; then
  folder=$(mktemp -d "$PODGATE_CACHE/vm.XXXXXX")
  trap 'rm -rf "$folder"' EXIT
fi

tests=
if [ $# -eq 0 ]; then
  tests=$(kernel_tests)
  [ -n "$tests" ] || die 'there are no such tests'
fi
# shellcheck disable=SC2016 # what is in single quotes is the machine's
{
  cat <<GUEST
#!/bin/bash
# What runs in the machine.
export PATH='$PATH' HOME=/root PODGATE_VM='$series' PODGATE_VM_DIR='$folder' PODGATE_CACHE='$PODGATE_CACHE' RUST_BACKTRACE=1 CI='${CI:-}'
export PODGATE_BIN_DIR='$PODGATE_BIN_DIR' CNI_PATH='$CNI_PATH'
mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
# A distribution's init does this; without it mounts in new namespaces behave as on no real node.
mount --make-rshared /
ulimit -n 65536
ip link set lo up
cd '$PODGATE_ROOT' || exit 125
GUEST
  if [ $# -gt 0 ]; then
    printf '%q ' "$@"
    printf '\nstatus=$?\n'
  else
    say 'status=0'
    say 'echo "the programs load:" && PODGATE_STATE_DIR=/tmp/load PODGATE_BPF_DIR=/sys/fs/bpf/load "$PODGATE_BIN_DIR/podgatectl" load || status=$?'
    while read -r line; do
      say "$line --test-threads=1 || status=\$?"
    done <<<"$tests"
  fi
  printf 'echo "$status" >%q/status\n' "$folder"
} >"$folder/run"
chmod +x "$folder/run"
rm -f "$folder/status"

step "kernel $series ($(cat "$PODGATE_CACHE/versions/linux-$series")): ${*:-${full:+all }kernel tests}"
# Hardware virtualisation hangs on some hosts (a nested /dev/kvm that never comes back), and vng shows output on a pipe only. What a
# newer processor has (five levels of pages, SMAP) is what emulating it costs: 5.10 is 2.5 times as fast on this one. Security modules
# have no part in what is tested.
timeout --kill-after=10 "${PODGATE_VM_TIMEOUT:-900}" \
  vng --disable-kvm --qemu-opts='-cpu Nehalem' --append 'mitigations=off lsm=' -r "$kernel" --root / --rwdir "$folder" --cpus "${PODGATE_VM_CPUS:-2}" -m "${PODGATE_VM_MEMORY:-2G}" \
  --exec "$folder/run" </dev/null 2>&1 | cat || true

# The command's own code, by way of a file: a kernel that dies or an emulator that is ended leaves none.
status=$(cat "$folder/status" 2>/dev/null) || {
  step "kernel $series: the machine did not come to an end"
  exit 125
}
step "kernel $series: exit code $status"
exit "$status"
