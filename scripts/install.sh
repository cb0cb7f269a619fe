#!/usr/bin/env bash
# Builds podgate and installs it on this node: programs, service, and its entry in the CNI chain.
#
#   scripts/install.sh [ARGUMENT...]     arguments go to `podgatectl install`; --dry-run shows what would be done
#   podgatectl uninstall                 takes it out again
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[ "$(id -u)" -eq 0 ] || die 'installing needs root'
"$PODGATE_ROOT/scripts/setup.sh"
step 'building the binaries (release)'
build_podgate
"$PODGATE_BIN_DIR/podgatectl" install --from "$PODGATE_BIN_DIR" "$@"
