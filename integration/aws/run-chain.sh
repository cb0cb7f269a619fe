#!/usr/bin/env bash
# Runs conf/10-aws.conflist with Amazon's real aws-cni and egress-cni in a node of its own and prints the result of ADD.
#
#   integration/aws/run-chain.sh [--cards N] [--egress] [--ipv6] [--with-podgate] [--show]
#
# --cards N       the pod asks for an interface on each of N network cards (1)
# --egress        egress-cni is enabled: a second pair, for the other address family
# --ipv6          the cluster is an IPv6 one (and egress-cni, if enabled, an IPv4 one)
# --with-podgate  keeps podgate in the chain (from PODGATE_BIN_DIR, see scripts/env.sh); without it, the chain is Amazon's alone
# --show          prints links, addresses, rules and routes of node and pod to standard error
#
# The node is this process: own mount, network and ipc namespace, tmpfs over /run, /var/lib and /var/log. Nothing is
# left when it ends. README.md tells what is filled in and why.
set -euo pipefail
# shellcheck source=../../scripts/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/env.sh"

if [ -z "${PODGATE_NODE:-}" ]; then
  [ "$(id -u)" -eq 0 ] || die 'namespaces need root'
  PODGATE_NODE=1 exec unshare --mount --net --ipc --pid --fork --kill-child --mount-proc --propagation private "$0" "$@"
fi

cards=1 egress=false ipv6=false with_podgate=false show=false
while [ $# -gt 0 ]; do
  case $1 in
    --cards) cards=$2 && shift ;;
    --egress) egress=true ;;
    --ipv6) ipv6=true ;;
    --with-podgate) with_podgate=true ;;
    --show) show=true ;;
    *) die "unknown argument $1" ;;
  esac
  shift
done

# --- the node --------------------------------------------------------------------------------------------------------
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mount -t tmpfs tmpfs /var/lib
mount -t sysfs sysfs /sys && mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/aws-node /run/netns /run/node /var/log/aws-routed-eni
# Amazon's packages open a log of their own under /host before they know their configuration.
export AWS_VPC_K8S_CNI_LOG_FILE=/var/log/aws-routed-eni/packages.log
ip link set lo up
ip netns add outside
ip link add uplink type veth peer name outside netns outside
ip address add 10.77.0.10/24 dev uplink
ip address add fd77::10/64 dev uplink nodad
ip link set uplink up
ip netns exec outside sh -c 'ip address add 10.77.0.1/24 dev outside; ip address add fd77::1/64 dev outside nodad; ip link set outside up'
ip route add default via 10.77.0.1
ip -6 route add default via fd77::1
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1

# --- the IPAM daemon -------------------------------------------------------------------------------------------------
prefix() { if $ipv6; then echo "fd77:0:0:$1::/64"; else echo "10.77.$1.0/24"; fi; }
card() { printf '{"prefix":"%s","deviceNumber":%d,"routeTable":%d}' "$(prefix $(($1 + 1)))" "$1" "$([ "$1" -eq 0 ] && echo 254 || echo $((100 + $1)))"; }
{
  printf '{"networkPolicyMode":"","vpcCIDRs":["%s"],"cards":[' "$($ipv6 && echo fd77::/48 || echo 10.77.0.0/16)"
  for ((i = 0; i < cards; i++)); do [ "$i" -eq 0 ] || printf ','; card "$i"; done
  printf ']}\n'
} >/run/node/ipamd.json
podgate-test-ipamd --socket /run/aws-node/ipamd.sock --config /run/node/ipamd.json 2>/run/node/ipamd.log &
for ((i = 0; i < 500; i++)); do [ -S /run/aws-node/ipamd.sock ] && break; read -rt 0.01 <> <(:) || true; done

# --- the configuration, filled in as aws-node's start does ------------------------------------------------------------
if $ipv6; then
  subnet=169.254.172.0/22 destination=0.0.0.0/0 data=/run/cni/v6pd/egress-v4-ipam node=10.77.0.10 log=v4
else
  subnet=fd00::ac:00/118 destination=::/0 data=/run/cni/v4pd/egress-v6-ipam node=fd77::10 log=v6
fi
mkdir -p /run/node/net.d
sed -e 's:__VETHPREFIX__:eni:; s:__MTU__:9001:; s:__PODSGENFORCINGMODE__:strict:' \
  -e 's:__PLUGINLOGFILE__:/var/log/aws-routed-eni/plugin.log:; s:__PLUGINLOGLEVEL__:Debug:' \
  -e "s:__EGRESSPLUGINLOGFILE__:/var/log/aws-routed-eni/egress-$log-plugin.log:; s:__EGRESSPLUGINENABLED__:$egress:" \
  -e "s|__EGRESSPLUGINIPAMSUBNET__|$subnet|; s|__EGRESSPLUGINIPAMDST__|$destination|; s:__EGRESSPLUGINIPAMDATADIR__:$data:" \
  -e "s:__RANDOMIZESNAT__:prng:; s|__NODEIP__|$node|" "$PODGATE_ROOT/conf/10-aws.conflist" |
  jq --argjson keep "$with_podgate" 'if $keep then . else .plugins |= map(select(.type != "podgate")) end' >/run/node/net.d/10-aws.conflist
if grep -n __ /run/node/net.d/10-aws.conflist >&2; then die 'a placeholder was not filled in'; fi

# --- ADD and DEL, as a runtime does them ------------------------------------------------------------------------------
ip netns add pod
export NETCONFPATH=/run/node/net.d CNI_PATH=$PODGATE_BIN_DIR:$PODGATE_CNI_BIN
export CNI_ARGS='IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-6d5f8-x2x7q;K8S_POD_INFRA_CONTAINER_ID=0a1b2c3d;K8S_POD_UID=7b4f3a52-6f3c-4d8e-9a53-1f0b6f6f2f10'
if [ "$cards" -gt 1 ]; then
  export CAP_ARGS='{"io.kubernetes.cri.pod-annotations":{"k8s.amazonaws.com/nicConfig":"multi-nic-attachment"}}'
fi
told=false
tell() { $told || cat /run/node/ipamd.log /var/log/aws-routed-eni/* >&2; }
trap tell EXIT
cnitool add aws-cni /var/run/netns/pod
if $show; then
  {
    echo '--- node' && ip -br link && ip rule && ip route show table all | grep -v '^local\|broadcast\|multicast\|table local'
    ip -6 rule && ip -6 route && iptables-save -t nat 2>/dev/null && ip6tables-save -t nat 2>/dev/null
    echo '--- pod' && ip -n pod address && ip -n pod rule && ip -n pod route show table all && ip -n pod neighbour
  } >&2 || true
fi
cnitool del aws-cni /var/run/netns/pod
told=true
