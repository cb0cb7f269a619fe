#!/usr/bin/env bash
# What a change must satisfy before its tests are looked at. Every check runs; the failing ones are listed at the end.
#
#   scripts/check.sh [CHECK...]          all checks, or the named ones
#   scripts/check.sh --accept-layout     after a change of layout: writes it down, if its LAYOUT_VERSION was not released yet
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$PODGATE_ROOT"

# In this order: the quick ones first.
checks=(format scripts safety patterns lints dependencies layout go clippy clippy_bpf docs licences)

check_format() { cargo fmt --all --check; }

check_scripts() { shellcheck --external-sources --source-path=SCRIPTDIR scripts/*.sh scripts/cluster/*.sh .ci/run integration/aws/*.sh; }

# Everything that is a program or library of ours, with its package: PACKAGE PATH.
crate_roots() {
  cargo metadata --locked --no-deps --format-version 1 |
    jq -r '.packages[] | .name as $p | .targets[] | select(.kind[0] != "custom-build") | "\($p) \(.src_path)"'
}

# `unsafe` lives in enforcer/ and enforcer-ebpf/ only; the compiler holds every other crate root to it.
check_safety() {
  local package path roots bad=0
  roots=$(crate_roots)
  while read -r package path; do
    case $package in enforcer | enforcer-ebpf) continue ;; esac
    grep -q '^#!\[forbid(unsafe_code)\]' "$path" || { say "${path#"$PODGATE_ROOT"/}: #![forbid(unsafe_code)] is missing" && bad=1; }
  done <<<"$roots"
  return $bad
}

# forbid WHY PATTERN PATHSPEC...: no line of these files has the pattern.
forbid() {
  local why=$1 pattern=$2 found status=0
  shift 2
  found=$(git grep --untracked -nE "$pattern" -- "$@") || status=$?
  case $status in
    0) printf '%s:\n%s\n' "$why" "$found" && return 1 ;;
    1) return 0 ;;
    *) die "git grep '$pattern' $*: $found" ;;
  esac
}

# What the compiler cannot say. (unwrap, mem::forget, dbg!, todo! and undocumented unsafe are clippy's: Cargo.toml.)
check_patterns() {
  local bad=0
  forbid 'stdout of the plugin is for the result: only wire.rs writes it' '\b(println|print)!|\bstdout\(\)' \
    'plugin/src/*.rs' ':!plugin/src/wire.rs' ':!plugin/src/wire/' ':!plugin/src/**/tests.rs' || bad=1
  forbid 'a namespace is entered only by enforcer::hostnet' '/ns/net|\bsetns\(|\bunshare\(' \
    '*/src/*.rs' ':!enforcer/src/hostnet/' ':!integration/' ':!*/src/**/tests.rs' || bad=1
  forbid 'netlink is spoken only by enforcer::hostnet' '\b(rtnetlink|netlink_packet_route|netlink_sys)::' \
    '*/src/*.rs' ':!enforcer/src/hostnet/' || bad=1
  forbid 'cni_plugin is named in one file' '\bcni_plugin::' '*/src/*.rs' ':!plugin/src/wire.rs' ':!plugin/src/wire/' || bad=1
  forbid 'a test waits for a condition with a bound, it does not sleep' '\bsleep\(' 'integration/tests/*.rs' || bad=1
  forbid 'a test that does not run says why' '#\[ignore\]' '*.rs' || bad=1
  forbid 'a layout of a map stands in verdict/src/layout' '\bPod for\b' '*/src/*.rs' ':!enforcer/src/maps.rs' || bad=1
  return $bad
}

check_lints() {
  local manifest bad=0
  for manifest in */Cargo.toml; do
    # fuzz/ is a workspace of its own.
    grep -q '^\[workspace\]' "$manifest" && continue
    [ "$(sed -n '/^\[lints\]/,/^\[/s/^workspace *= *true$/yes/p' "$manifest")" = yes ] ||
      { say "$manifest: [lints] workspace = true is missing" && bad=1; }
  done
  return $bad
}

# The table of design.md, "Parts": what each crate knows. Dependencies point downward only.
check_dependencies() {
  local bad=0 package allowed known name
  while IFS='|' read -r package allowed; do
    known=$(cargo tree --locked --package "$package" --edges normal,build --depth 1 --prefix none --format '{p}' --target all |
      tail -n +2 | sed -n "s: v[^ ]* ($PODGATE_ROOT/.*::p" | sort -u)
    for name in $known; do
      [[ " $allowed " == *" $name "* ]] || { say "$package depends on $name; it may know: ${allowed:-nothing}" && bad=1; }
    done
  done <<'TABLE'
verdict|
verdict-testkit|verdict
policy|verdict
resolve|verdict policy
cluster|policy resolve state
state|
enforcer-ebpf|verdict
enforcer|verdict state
plugin|verdict enforcer state
published|policy state
companion|verdict policy enforcer state published
cli|verdict policy resolve state published enforcer plugin
integration|verdict verdict-testkit policy resolve state published enforcer plugin companion cli
TABLE
  return $bad
}

# The files that say what lies in a map; scripts/layout.lock holds the version and the hash of what they say.
layout_files=(verdict/src/layout/*.rs verdict/src/scratch.rs verdict/src/policy_state.rs verdict/src/reason.rs enforcer-ebpf/src/maps.rs)

# Comments, blank lines and tests are not layout.
layout() {
  local version hash
  version=$(sed -n 's/^pub const LAYOUT_VERSION: u32 = \([0-9]*\);$/\1/p' verdict/src/layout/mod.rs)
  [ -n "$version" ] || die 'verdict/src/layout/mod.rs: LAYOUT_VERSION not found'
  hash=$(for file in "${layout_files[@]}"; do sed '/^#\[cfg(test)\]/,$d; s:^ *//.*::; /^$/d; s/^\(pub const LAYOUT_VERSION\).*/\1/' "$file"; done |
    sha256sum | cut -c1-32)
  say "$version $hash"
}

check_layout() {
  local now recorded
  now=$(layout) recorded=$(cat scripts/layout.lock)
  [ "$now" = "$recorded" ] && return
  say "the layout of the maps is not the one written down for LAYOUT_VERSION ${recorded% *} (${layout_files[*]})."
  say 'Programs and maps of two layouts must never meet under one pin path: raise LAYOUT_VERSION if that one was released,'
  say 'then scripts/check.sh --accept-layout'
  return 1
}

# Free until a release has it: what no node runs can still change under its number.
accept_layout() {
  local now tag released=
  now=$(layout)
  if tag=$(git describe --tags --abbrev=0 2>/dev/null); then released=$(git show "$tag:scripts/layout.lock"); fi
  if [ -n "$released" ] && [ "$now" != "$released" ] && [ "${now% *}" -le "${released% *}" ]; then
    die "LAYOUT_VERSION ${now% *} was released with another layout: raise it in verdict/src/layout/mod.rs first"
  fi
  say "$now" | tee scripts/layout.lock
}

check_go() {
  local go=go
  command -v go >/dev/null || go=$PODGATE_CACHE/python/bin/go
  [ -z "$("$(dirname "$(command -v "$go")")/gofmt" -l integration/aws 2>/dev/null)" ] || { say 'gofmt -w integration/aws' && return 1; }
  "$go" -C integration/aws vet ./... && "$go" -C integration/aws test ./...
}

check_clippy() {
  cargo clippy --locked --quiet --workspace --all-targets -- --deny warnings
}

# The kernel programs are another target and another compiler: Debian's clippy of the rustc that builds them.
check_clippy_bpf() {
  if [ ! -x /usr/bin/rustc ] || [ ! -x /usr/bin/clippy-driver ]; then
    say 'left out: Debian'\''s rustc-web and rust-web-clippy are not here (scripts/setup.sh --tests)'
    return 0
  fi
  RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 RUSTC_WORKSPACE_WRAPPER=/usr/bin/clippy-driver \
    CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS='-Dwarnings --cfg=bpf_target_arch="x86_64"' \
    cargo check --locked --quiet --release --target bpfel-unknown-none --package enforcer-ebpf --bin podgate-bpf --target-dir target/bpf-clippy
}

check_docs() { RUSTDOCFLAGS='--deny warnings' cargo doc --locked --quiet --workspace --no-deps --document-private-items; }

check_licences() {
  cargo deny --log-level error check licenses bans sources || return 1
  # The advisories are a git repository: where only package registries can be reached there is nothing to ask.
  local log
  log=$(mktemp)
  if cargo deny --log-level error check advisories >"$log" 2>&1; then
    say 'advisories: none'
  elif grep -qE 'failed to fetch advisory database|failed to open advisory database|advisory database' "$log"; then
    say 'ADVISORIES NOT CHECKED: their database (a git repository) cannot be reached from here'
  else
    cat "$log"
    rm -f "$log"
    return 1
  fi
  rm -f "$log"
}

# ---------------------------------------------------------------------------------------------------------------------

if [ "${1:-}" = --accept-layout ]; then
  accept_layout
  exit
fi
"$PODGATE_ROOT/scripts/setup.sh" --tests
for name in "${@:-${checks[@]}}"; do
  declare -F "check_$name" >/dev/null || die "unknown check $name (known: ${checks[*]})"
done

failed=()
for name in "${@:-${checks[@]}}"; do
  begun=$SECONDS
  # A shell of its own, and not as a condition: within one `set -e` would mean nothing, and a tool that cannot even start
  # would pass for one that found nothing.
  set +e
  output=$(set -e; "check_$name" 2>&1)
  status=$?
  set -e
  if [ "$status" -eq 0 ]; then
    step "ok      $name ($((SECONDS - begun)) s)"
  else
    step "FAILED  $name ($((SECONDS - begun)) s)"
    failed+=("$name")
  fi
  [ -z "$output" ] || printf '%s\n' "$output" | sed 's/^/          /'
done
if [ ${#failed[@]} -gt 0 ]; then
  step "checks failed: ${failed[*]}"
  exit 1
fi
step 'all checks passed'
