#!/usr/bin/env bash
# podgate in a test cluster of scripts/test-cluster.sh, with its real Kubernetes side. Run on `cp` when the API serves and
# before any node registers, then on each node before the kubelet. `start` runs a process with its log in $S.
#   PODGATE_BIN_DIR   the programs
#   PODGATE_MODE      standard or strict
#   PODGATE_RESOLVE   1 = no controller: each node's sync resolves by itself
set -eu
: "${PODGATE_ROOT:?}" "${PODGATE_BIN_DIR:?}" "${KUBECONFIG:?}"
export PATH=$PODGATE_BIN_DIR:$PATH
if [ "$NODE" = cp ]; then
  kubectl apply -f "$PODGATE_ROOT/conf/crds"
  kubectl wait --for=condition=Established --timeout=30s crd --all
  if [ -z "${PODGATE_RESOLVE:-}" ]; then
    start podgate-controller podgate-controller --kubeconfig "$KUBECONFIG"
  fi
  exit
fi
export PODGATE_STATE_DIR=/var/lib/podgate
podgatectl load
podgatectl install --from "$PODGATE_BIN_DIR" --plugin-only --source cluster --node-name "$NODE" \
  --mode "${PODGATE_MODE:-standard}" --cni-bin-dir "$CNI_BIN" --cni-conf-dir "$CNI_CONF"
start podgated podgated --enable-policy-event-logs=true --flow-log-file "$S/$NODE.flows.log"
start podgate-sync podgate-sync --node-name "$NODE" --kubeconfig "$KUBECONFIG" ${PODGATE_RESOLVE:+--resolve}
