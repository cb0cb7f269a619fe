#!/usr/bin/env bash
# Fetches and unpacks one Debian kernel into the cache: $PODGATE_CACHE/kernels/SERIES, with `vmlinuz` beside its modules.
#
#   scripts/fetch-kernel.sh 5.10|6.1|6.12
#
# 6.1 and 6.12 are Debian 12's own, 5.10 is Debian 11's. A private apt folder asks the mirror that this machine uses
# anyway; neither the machine's sources nor its installed packages are touched.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

series=${1:-}
case $series in
  5.10) suites='bullseye' package=linux-image-amd64 ;;
  6.1) suites='bookworm bookworm-updates bookworm-security' package=linux-image-amd64 ;;
  6.12) suites='bookworm-security' package=linux-image-6.12-amd64 ;;
  *) die "usage: $0 5.10|6.1|6.12" ;;
esac
[ "$(dpkg --print-architecture)" = amd64 ] || die 'only amd64 kernels are known here'

folder=$(mktemp -d "${TMPDIR:-/tmp}/podgate-kernel.XXXXXX")
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder"/{sources,lists/partial,cache/archives/partial,unpacked}

# mirror_of SUITE: where this machine's own sources have it; Debian 11 stands beside Debian 12.
mirror_of() {
  # shellcheck disable=SC2016 # the dollars are apt's
  apt-get indextargets --format '$(RELEASE)|$(SITE)' 'Created-By: Packages' | sed -n "s/^${1/bullseye/bookworm}|//p" | head -n 1
}
for suite in $suites; do
  mirror=$(mirror_of "$suite")
  [ -n "$mirror" ] || { say "note: this machine's apt sources have no suite ${suite/bullseye/bookworm}"; continue; }
  cat >"$folder/sources/$suite.sources" <<SOURCES
Types: deb
URIs: $mirror
Suites: $suite
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
done
private=(-o "Dir::Etc::sourceparts=$folder/sources" -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::preferencesparts=/dev/null
  -o "Dir::State::lists=$folder/lists" -o "Dir::Cache=$folder/cache" -o Dir::State::status=/dev/null
  -o Acquire::Languages=none -o APT::Sandbox::User=root -qq)
apt-get "${private[@]}" update || die "cannot read the package lists of $suites"
image=$(apt-cache "${private[@]}" depends --important "$package" | sed -n 's/.*Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
[[ $image == linux-image-$series.* ]] || die "$package of $suites asks for '$image', not for a kernel $series"
(cd "$folder" && apt-get "${private[@]}" download "$image") || die "cannot download $image"

dpkg -x "$folder"/linux-image-*.deb "$folder/unpacked"
release=${image#linux-image-}
depmod -b "$folder/unpacked" "$release"
ln -s "boot/vmlinuz-$release" "$folder/unpacked/vmlinuz"

mkdir -p "$PODGATE_CACHE/kernels" "$PODGATE_CACHE/versions"
rm -rf "$PODGATE_CACHE/kernels/$series"
mv "$folder/unpacked" "$PODGATE_CACHE/kernels/$series"
printf '%s\n' "$release" >"$PODGATE_CACHE/versions/linux-$series"
say "        $release, in $PODGATE_CACHE/kernels/$series"
