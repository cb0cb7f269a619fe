#!/usr/bin/env bash
# podgate, told in a terminal: a node, a demo app, four clients, and a policy that lets exactly one of them in.
#
#   scripts/demo.sh            everything from nothing: tools, build, story (needs root)
#   scripts/demo.sh --pause    wait for Enter between the steps
#
# All of it lives in a network and a mount namespace of its own: nothing of the machine is changed, nothing is left behind.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

pause=false
for argument; do
  case $argument in
    --pause) pause=true ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) die "unknown argument $argument (known: --pause)" ;;
  esac
done

BIN=${PODGATE_BIN_DIR:-$PODGATE_ROOT/target/release}

if [ -z "${PODGATE_DEMO_NODE:-}" ]; then
  [ "$(id -u)" -eq 0 ] || die 'namespaces and eBPF need root: run it by sudo -E scripts/demo.sh'
  "$PODGATE_ROOT/scripts/setup.sh"
  step 'building podgate (cargo build --release)'
  cargo build --release --quiet --manifest-path "$PODGATE_ROOT/Cargo.toml"
  PODGATE_DEMO_NODE=1 exec unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private "$0" "$@"
fi

# --- telling -----------------------------------------------------------------------------------------------------------

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'; else bold='' dim='' green='' red='' plain=''; fi
chapter=0
chapter() {
  if $pause && [ "$chapter" -gt 0 ]; then read -rp "${dim}Enter goes on${plain} "; fi
  chapter=$((chapter + 1))
  printf '\n%s%d. %s%s\n' "$bold" "$chapter" "$1" "$plain"
}
tell() { printf '   %s\n' "$@"; }
# show COMMAND...: the command as one would type it, then its output.
show() {
  printf '   %s$ %s%s\n' "$dim" "$*" "$plain"
  "$@" 2>&1 | sed 's/^/     /'
}
# drops: the app's packets by reason.
drops() {
  tell "${dim}\$ podgatectl pods -o json | jq '.[] | select(.name == \"app\")'${plain}"
  podgatectl pods -o json | jq -c '.[] | select(.name == "app") | {mode, passed, dropped}, .reasons' | sed 's/^/     /'
}
dropped() { podgatectl pods -o json | jq '.[] | select(.name == "app") | .dropped'; }
fail() {
  printf '%s%s%s\n' "$red" "$*" "$plain" >&2
  [ ! -s "$LOG" ] || { echo '--- podgated:' && tail -n 20 "$LOG"; } >&2
  exit 1
}

PATH=$BIN:$PATH
export NETCONFPATH=/run/net.d CNI_PATH=$BIN:$PODGATE_CNI_BIN
LOG=/run/podgated.log

# --- the node ------------------------------------------------------------------------------------------------------------

make_node() {
  mount -t tmpfs tmpfs /run
  mount -t tmpfs tmpfs /var/lib
  mount -t tmpfs tmpfs /var/log
  mount -t sysfs sysfs /sys && mount -t bpf bpf /sys/fs/bpf
  mkdir -p /run/netns "$NETCONFPATH"
  ip link set lo up
  sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0
  cp "$PODGATE_ROOT/conf/podgate-ptp.conflist" "$NETCONFPATH"
}

# make_pod NAMESPACE NAME: an empty pod, as the runtime makes it before it calls the chain.
make_pod() {
  ip netns add "$1.$2"
  ip netns exec "$1.$2" sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0
  ip -n "$1.$2" link set lo up
}
# cni VERB NAMESPACE NAME
cni() { CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=$2;K8S_POD_NAME=$3" cnitool "$1" podgate-ptp "/run/netns/$2.$3"; }
address_of() { ip -n "$1.$2" -j address show dev eth0 scope global | jq -r ".[0].addr_info[] | select(.family == \"$3\") | .local"; }
traffic() { podgate-traffic --netns "/run/netns/$1" "${@:2}"; }
# reaches POD ADDRESS [MILLISECONDS]: one TCP connection to port 80 and one answer.
reaches() {
  local address=$2
  case $address in *:*) address="[$address]" ;; esac
  [ "$(traffic "$1" connect "$address:80" --timeout "${3:-400}" | jq -r .outcome)" = open ]
}

# start NAME POD WORDS...: a helper that stays; ask NAME LINE: one line to it, its answer in REPLY.
declare -A TO FROM
start() {
  local to from
  mkfifo "/run/$1.in" "/run/$1.out"
  exec {to}<>"/run/$1.in" {from}<>"/run/$1.out"
  TO[$1]=$to FROM[$1]=$from
  traffic "$2" "${@:3}" <"/run/$1.in" >"/run/$1.out" &
  read -r -t 5 -u "$from" || fail "$1 does not start"
}
ask() {
  echo "$2" >&"${TO[$1]}"
  read -r -t 10 -u "${FROM[$1]}" || fail "$1 does not answer"
}

CLIENTS=(demo.client-one demo.client-two other.client-one other.client-two)
# everybody_tries EXPECTED...: who gets in; anything else than expected ends the demo.
everybody_tries() {
  local client address family got=()
  for client in "${CLIENTS[@]}"; do
    for family in IPv4 IPv6; do
      address=$APP4
      [ $family = IPv4 ] || address=$APP6
      if reaches "$client" "$address"; then
        tell "$(printf '%-18s %s  %sgets in%s' "$client" $family "$green" "$plain")"
        got+=("$client/$family")
      else
        tell "$(printf '%-18s %s  %sno answer%s' "$client" $family "$red" "$plain")"
      fi
    done
  done
  [ "${got[*]:-}" = "$*" ] || fail "expected to get in: ${*:-nobody}; got in: ${got[*]:-nobody}"
}

trap '[ $? -eq 0 ] || { [ ! -s "$LOG" ] || tail -n 20 "$LOG" >&2; }' EXIT

chapter 'A node'
make_node
tell 'A network namespace plays the node: its own links, its own bpffs, its own state folder /var/lib/podgate.' \
  'The CNI chain is conf/podgate-ptp.conflist: the main plugin makes the veth pair, podgate stands right behind it:'
show jq -c '[.plugins[].type]' "$NETCONFPATH/podgate-ptp.conflist"
podgated --metrics-bind-addr 127.0.0.1:0 --health-probe-bind-addr 127.0.0.1:0 >"$LOG" 2>&1 &
COMPANION=$!
tell "The companion podgated (pid $COMPANION) watches the state folder for policies. It is not in any packet's way."

chapter 'Four clients, two namespaces'
for client in "${CLIENTS[@]}"; do
  make_pod "${client%%.*}" "${client#*.}"
  cni add "${client%%.*}" "${client#*.}" >/dev/null || fail "cnitool add $client"
  tell "$(printf '%-18s %s  %s' "$client" "$(address_of "${client%%.*}" "${client#*.}" inet)" "$(address_of "${client%%.*}" "${client#*.}" inet6)")"
done
tell 'They run in standard mode: what no policy restricts is allowed.'

chapter 'A demo app in strict mode: not even the first packet'
tell 'The app starts sending 10,000 packets a second to a client before it has an interface at all.' \
  'Then the runtime wires it through the chain, in strict mode: what no policy allows is refused.'
make_pod demo app
sink=$(address_of demo client-one inet)
start receiver demo.client-one sink 7000
start generator demo.app flood "$sink:7000"
NETWORK_POLICY_ENFORCING_MODE=strict cni add demo app >/dev/null || fail 'cnitool add demo/app'
record=$(grep -l '"podName": *"app"' /var/lib/podgate/pods/*.json | head -n 1)
attached=$(jq .attachedAtMonotonicNs "$record")
APP4=$(address_of demo app inet) APP6=$(address_of demo app inet6)
tell "The app has $APP4 and $APP6."
start server demo.app serve --tcp 80
# The kernel asks for a neighbour only once a second: the generator may need that long to find its way.
for ((i = 0; i < 300; i++)); do
  sleep 0.02
  ask generator report
  [ "$(jq '[.[].sent] | add // 0' <<<"$REPLY")" -lt 10000 ] || break
done
ask generator stop && sent=$REPLY
ask receiver report && all=$REPLY
ask receiver "report $((attached + 1))" && after=$REPLY
leaked=$(jq '[.[].packets] | add // 0' <<<"$after")
tell "sent by the app:                                     $(jq '[.[].sent] | add // 0' <<<"$sent") packets" \
  "arrived, of those sent before podgate was attached:  $(($(jq '[.[].packets] | add // 0' <<<"$all") - leaked)) (the main plugin had just set the link up)" \
  "arrived, of those sent after:                        $leaked"
[ "$leaked" -eq 0 ] || fail 'a packet came through'

chapter 'Nobody gets in'
everybody_tries
tell 'The refusals have a name and a counter:'
drops
before=$(dropped)

chapter 'A policy file lets exactly one client in'
one4=$(address_of demo client-one inet) one6=$(address_of demo client-one inet6)
cat >/var/lib/podgate/policies/.allow-one.tmp <<YAML
apiVersion: networking.k8s.aws/v1alpha1
kind: PolicyEndpoint
metadata:
  name: allow-one
  namespace: demo
  annotations: {podgate.dev/parts: "1", podgate.dev/generation: "1"}
spec:
  policyRef: {name: allow-one, namespace: demo}
  podIsolation: [Ingress]
  podSelectorEndpoints:
  - {hostIP: 192.0.2.1, podIP: $APP4, name: app, namespace: demo}
  ingress:
  - {cidr: $one4, ports: [{protocol: TCP, port: 80}]}
  - {cidr: "$one6", ports: [{protocol: TCP, port: 80}]}
YAML
show cat /var/lib/podgate/policies/.allow-one.tmp
tell 'The client tries anew every 5 ms. Now the file is renamed into the store:'
start knocker demo.client-one knock "$APP4:80"
began=$(date +%s%N)
mv /var/lib/podgate/policies/.allow-one.tmp /var/lib/podgate/policies/allow-one.yaml
read -r -t 10 -u "${FROM[knocker]}" || fail 'the client does not answer'
opened=$(jq -r '.openedAtNs // empty' <<<"$REPLY")
[ -n "$opened" ] || fail 'the policy did not become effective within 5 s'
tell "${green}demo.client-one got in $(((opened - began) / 1000000)) ms after that.${plain}"
podgatectl wait --timeout 5s || fail 'podgatectl wait'
everybody_tries demo.client-one/IPv4 demo.client-one/IPv6

chapter 'Why? podgatectl explain names the policy and the rule'
show podgatectl explain --pod demo/app --direction ingress --peer "$one4" --port 80 --protocol tcp
show podgatectl explain --pod demo/app --direction ingress --peer "$(address_of other client-two inet)" --port 80 --protocol tcp
after=$(dropped)
tell "The app's drop counter rose from $before to $after:"
drops
[ "$after" -gt "$before" ] || fail 'the drop counter did not rise'

chapter 'The file goes, the door closes'
rm /var/lib/podgate/policies/allow-one.yaml
podgatectl wait --timeout 5s || fail 'podgatectl wait'
everybody_tries

chapter 'Clean-up'
for pod in demo.app "${CLIENTS[@]}"; do
  cni del "${pod%%.*}" "${pod#*.}" || fail "cnitool del $pod"
  ip netns del "$pod" || true
done
records=$(find /var/lib/podgate/pods -name '*.json' | wc -l)
tell "After DEL: $records records left."
[ "$records" -eq 0 ] || fail 'a record was left'
kill "$COMPANION"
wait "$COMPANION" || true
tell 'The node itself ends with this process, its programs, maps and links with it.' ''
tell "${bold}That was podgate.${plain} Next: README.md says how to install it in a chain; docs/ARCHITECTURE.md how it works."
