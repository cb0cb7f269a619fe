#!/usr/bin/env bash
# Builds kube-apiserver of the release in KUBERNETES_VERSION from Go modules into $PODGATE_CACHE/kube, once.
# The tests of cluster/ run it beside Debian's etcd. 205 s on two idle cores.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

dir=$PODGATE_CACHE/kube
mkdir -p "$dir/mod" "$PODGATE_CACHE/versions"
if [ -x "$dir/kube-apiserver" ] && [ "$(cat "$PODGATE_CACHE/versions/kube" 2>/dev/null)" = "$KUBERNETES_VERSION" ]; then
  exit 0
fi
command -v go >/dev/null || die "go is missing: run scripts/setup.sh --tests, or install Go $GO_MINIMUM"
commands=(kube-apiserver)
# The tests speak to it with kubectl.
command -v kubectl >/dev/null || commands+=(kubectl)

# A module of our own that requires Kubernetes: its staging modules are replaced as its own go.mod replaces them.
module=k8s.io/kubernetes
staging=v0${KUBERNETES_VERSION#v1}
gomod=$(cd "$dir/mod" && go mod download -json "$module@$KUBERNETES_VERSION" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
cd "$dir/mod"
{
  printf 'module podgate.test/kube\n\ngo 1.26.0\ngodebug default=go1.26\nrequire %s %s\n' "$module" "$KUBERNETES_VERSION"
  sed -n "s#^\t*\(k8s.io/[a-z0-9-]*\) => ./staging/.*#replace \1 => \1 $staging#p" "$gomod"
} >go.mod
{
  printf '//go:build tools\n\npackage tools\n\nimport (\n'
  printf "\t_ \"$module/cmd/%s\"\n" "${commands[@]}"
  printf ')\n'
} >tools.go
go mod tidy
for command in "${commands[@]}"; do
  step "building $command $KUBERNETES_VERSION"
  CGO_ENABLED=0 nice -n 10 go build -trimpath \
    -ldflags="-s -w -X k8s.io/component-base/version.gitVersion=$KUBERNETES_VERSION" -o "$dir/$command.new" "$module/cmd/$command"
  mv "$dir/$command.new" "$dir/$command"
done
# Where tests look for tools; the machine's own kubectl comes first.
[ ! -x "$dir/kubectl" ] || ln -sf "$dir/kubectl" "$PODGATE_CNI_BIN/kubectl"
printf '%s\n' "$KUBERNETES_VERSION" >"$PODGATE_CACHE/versions/kube"
step "the API server is in $dir"
