#!/usr/bin/env bash
# A cluster on local ports: cluster.sh [--data DIR] up N [--shards S] | down | kill I | start I | status | endpoints
# Node I listens on 7100+I (gRPC) and 8100+I (HTTP). Data, logs and process ids live in DIR (default: a folder in the cache).
. "$(dirname "$0")/lib/common.sh"

DATA="$CACHE/cluster"
SHARDS=3
usage() { sed -n '2,3s/^# //p' "$0"; exit 2; }
args=()
while [ $# -gt 0 ]; do
  case "$1" in
    --data) DATA="${2:?--data needs a folder}"; shift 2 ;;
    --shards) SHARDS="${2:?--shards needs a number}"; shift 2 ;;
    -h|--help) usage ;;
    *) args+=("$1"); shift ;;
  esac
done
[ ${#args[@]} -gt 0 ] || usage
mkdir -p "$DATA"

port() { echo $((${KVSVR_BASE_PORT:-7100} + $1)); }
pid_file() { echo "$DATA/node$1.pid"; }
running() {
  local pid
  pid=$(cat "$(pid_file "$1")" 2>/dev/null) && kill -0 "$pid" 2>/dev/null || return 1
  # A process that was killed and that nobody has waited for yet is not running.
  ! grep -q '^State:[[:space:]]*Z' "/proc/$pid/status" 2>/dev/null
}
nodes() { for f in "$DATA"/node*.pid; do [ -e "$f" ] && basename "$f" .pid | sed 's/node//'; done | sort -n; }

start_node() {
  running "$1" && return 0
  "$BIN/kvsvr" serve --data "$DATA/node$1" --listen "127.0.0.1:$(port "$1")" ${KVSVR_SERVE_FLAGS:-} >>"$DATA/node$1.log" 2>&1 &
  echo $! >"$(pid_file "$1")"
  disown
}
wait_port() {
  for _ in $(seq 100); do
    curl -fs "http://127.0.0.1:$((1000 + $(port "$1")))/healthz" >/dev/null 2>&1 && return 0
    running "$1" || { tail -5 "$DATA/node$1.log" >&2; die "node $1 stopped, see $DATA/node$1.log"; }
    sleep 0.1
  done
  die "node $1 does not answer on port $(port "$1"), see $DATA/node$1.log"
}
endpoints() { nodes | while read -r i; do printf '%s127.0.0.1:%s' "${sep:-}" "$(port "$i")"; sep=,; done; }
stop_node() {
  running "$1" || return 0
  kill -TERM "$(cat "$(pid_file "$1")")"
}
wait_gone() {
  for _ in $(seq 200); do running "$1" || return 0; sleep 0.1; done
  note "node $1 does not stop, killing it"
  kill -KILL "$(cat "$(pid_file "$1")")" 2>/dev/null || true
}

case "${args[0]}" in
  up)
    n="${args[1]:-3}"
    [ -x "$BIN/kvsvr" ] || build_release
    for i in $(seq "$n"); do start_node "$i"; done
    for i in $(seq "$n"); do wait_port "$i"; done
    replication=3; [ "$n" -ge 3 ] || replication=1
    if ! "$BIN/kvctl" --endpoints "$(endpoints)" --timeout 2s cluster status >/dev/null 2>&1 || [ ! -e "$DATA/bootstrapped" ]; then
      "$BIN/kvctl" --endpoints "$(endpoints)" --yes cluster bootstrap --nodes "$(endpoints)" --shards "$SHARDS" --replication "$replication"
      touch "$DATA/bootstrapped"
    fi
    "$BIN/kvctl" --endpoints "$(endpoints)" --timeout 30s cluster health --wait
    ;;
  down)
    for i in $(nodes); do stop_node "$i"; done
    for i in $(nodes); do wait_gone "$i"; rm -f "$(pid_file "$i")"; done
    ;;
  kill) kill -KILL "$(cat "$(pid_file "${args[1]:?which node}")")" ;;
  start) start_node "${args[1]:?which node}"; wait_port "${args[1]}" ;;
  status) "$BIN/kvctl" --endpoints "$(endpoints)" cluster status ;;
  endpoints) endpoints; echo ;;
  *) usage ;;
esac
