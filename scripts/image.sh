#!/usr/bin/env bash
# Makes the image of conf/kubernetes as an archive, without a container engine: the programs and the shared libraries that
# they need, in one layer. The same programs give the same bytes.
#
#   scripts/image.sh [OUT.tar]          podgate.tar by default; PODGATE_BIN_DIR = where the programs are (target/release)
#   ctr -n k8s.io images import OUT.tar, docker load -i OUT.tar, podman load -i OUT.tar
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
out=${1:-podgate.tar}
tag=podgate:$(sed -n 's/^version = "\(.*\)"/\1/p' "$PODGATE_ROOT/Cargo.toml" | head -n 1)
programs=(podgate podgated podgatectl podgate-controller podgate-sync)
for program in "${programs[@]}"; do
  [ -x "$PODGATE_BIN_DIR/$program" ] || die "$PODGATE_BIN_DIR/$program is missing: cargo build --release --bins"
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{podgate,etc,tmp,proc,sys,dev,run,var/lib,opt}
printf 'root:x:0:0:root:/:/sbin/nologin\npodgate:x:65532:65532::/:/sbin/nologin\n' >"$root/etc/passwd"
for program in "${programs[@]}"; do
  install -m 0755 "$PODGATE_BIN_DIR/$program" "$root/podgate/$program"
  # Libraries keep the path by which the loader finds them. A static program has none.
  { ldd "$PODGATE_BIN_DIR/$program" 2>/dev/null || true; } | sed -n 's:^[^/]*\(/[^ ]*\).*:\1:p' | while read -r library; do
    [ -e "$root$library" ] || install -D -m 0755 "$(realpath "$library")" "$root$library"
  done
done

archive() { tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --format=gnu -C "$1" -cf "$2" "${@:3}"; }
digest() { sha256sum "$1" | cut -c1-64; }
case $(uname -m) in x86_64) architecture=amd64 ;; aarch64) architecture=arm64 ;; *) architecture=$(uname -m) ;; esac

mkdir "$work/image"
archive "$root" "$work/layer.tar" .
layer=$(digest "$work/layer.tar")
mkdir "$work/image/$layer"
mv "$work/layer.tar" "$work/image/$layer/layer.tar"
printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/podgate"],"Cmd":["/podgate/podgatectl","--version"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created_by":"scripts/image.sh"}]}' \
  "$architecture" "$layer" >"$work/config.json"
config=$(digest "$work/config.json")
mv "$work/config.json" "$work/image/$config.json"
printf '[{"Config":"%s.json","RepoTags":["docker.io/library/%s"],"Layers":["%s/layer.tar"]}]' "$config" "$tag" "$layer" >"$work/image/manifest.json"
archive "$work/image" "$out" "$config.json" "$layer/layer.tar" manifest.json
say "$out: $tag, $(du -h "$out" | cut -f1)"
