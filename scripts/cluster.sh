#!/usr/bin/env bash
# A cluster on local ports: cluster.sh [--data DIR] up N [--shards S] | down | kill I | start I | new I | lose I | status | endpoints | clean
# Node I listens on 7100+I (gRPC) and 8100+I (HTTP); KVSVR_BASE_PORT=7300 makes that 7300+I and 8300+I. Data, logs and process ids live in
# DIR (default: ~/.cache/kvsvr/cluster); `up` goes on with what is there, `clean` removes it. `new` starts a node that is no member yet, `lose` kills one and
# removes its data: kvctl member add and member replace do the rest.
. "$(dirname "$0")/lib/common.sh"

DATA="$CACHE/cluster"
SHARDS=3
help() { sed -n '2,5s/^# //p' "$0"; }
usage() { help >&2; exit 2; }
args=()
while [ $# -gt 0 ]; do
  case "$1" in
    --data) DATA="${2:?--data needs a folder}"; shift 2 ;;
    --shards) SHARDS="${2:?--shards needs a number}"; shift 2 ;;
    -h|--help) help; exit 0 ;;
    -*) die "unknown flag $1" ;;
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

open_port() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
number() { # a node's number, or how many
  case "${1:-}" in ''|*[!0-9]*|0*) die "a number from 1 on is needed, not '${1:-}'" ;; esac
}
known() {
  number "${1:-}"
  [ -e "$DATA/node$1.log" ] || die "there is no node $1 in $DATA; it has: $(nodes | paste -sd' ' -)"
}

start_node() {
  running "$1" && return 0
  local port
  for port in "$(port "$1")" "$((1000 + $(port "$1")))"; do
    ! open_port "$port" || die "port $port is taken, by another cluster perhaps: stop that, or set KVSVR_BASE_PORT"
  done
  "$BIN/kvsvr" serve --data "$DATA/node$1" --listen "127.0.0.1:$(port "$1")" ${KVSVR_SERVE_FLAGS:-} >>"$DATA/node$1.log" 2>&1 &
  echo $! >"$(pid_file "$1")"
  disown
}
wait_port() {
  for _ in $(seq 100); do
    running "$1" || { tail -5 "$DATA/node$1.log" >&2; die "node $1 stopped, see $DATA/node$1.log"; }
    curl -fs "http://127.0.0.1:$((1000 + $(port "$1")))/healthz" >/dev/null 2>&1 && return 0
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
    number "$n"
    was=$(cat "$DATA/bootstrapped" 2>/dev/null || true)
    [ "${was:-$n}" = "$n" ] || die "the cluster in $DATA began with $was nodes, and this script starts as many: 'up $was', or another --data; a node that is started by hand joins with 'kvctl member add'"
    [ -n "${KVSVR_BUILT:-}" ] || build_release
    for i in $(seq "$n"); do start_node "$i"; done
    for i in $(seq "$n"); do wait_port "$i"; done
    replication=3; [ "$n" -ge 3 ] || replication=1
    if ! "$BIN/kvctl" --endpoints "$(endpoints)" --timeout 2s cluster status >/dev/null 2>&1 || [ ! -e "$DATA/bootstrapped" ]; then
      "$BIN/kvctl" --endpoints "$(endpoints)" --yes cluster bootstrap --nodes "$(endpoints)" --shards "$SHARDS" --replication "$replication"
      echo "$n" >"$DATA/bootstrapped"
    fi
    "$BIN/kvctl" --endpoints "$(endpoints)" --timeout 30s cluster health --wait
    note "data and logs are in $DATA"
    ;;
  down)
    for i in $(nodes); do stop_node "$i"; done
    for i in $(nodes); do wait_gone "$i"; rm -f "$(pid_file "$i")"; done
    ;;
  kill)
    known "${args[1]:-}"
    running "${args[1]}" || die "node ${args[1]} is not running"
    kill -KILL "$(cat "$(pid_file "${args[1]}")")"
    note "node ${args[1]} is killed"
    ;;
  start)
    known "${args[1]:-}"
    start_node "${args[1]}"; wait_port "${args[1]}"
    note "node ${args[1]} is running"
    ;;
  new)
    number "${args[1]:-}"
    [ ! -e "$DATA/node${args[1]}" ] || die "node ${args[1]} has data in $DATA: 'start ${args[1]}' starts it"
    start_node "${args[1]}"; wait_port "${args[1]}"
    note "node ${args[1]} is running at 127.0.0.1:$(port "${args[1]}"), and is no member yet"
    ;;
  lose)
    known "${args[1]:-}"
    ! running "${args[1]}" || kill -KILL "$(cat "$(pid_file "${args[1]}")")"
    for _ in $(seq 100); do running "${args[1]}" || break; sleep 0.1; done
    rm -rf "$DATA/node${args[1]}"
    note "node ${args[1]} is killed, and its disk is empty"
    ;;
  status)
    [ -n "$(nodes)" ] || die "no node of $DATA is running: cluster.sh up 3 starts them"
    "$BIN/kvctl" --endpoints "$(endpoints)" cluster status
    ;;
  clean)
    for i in $(nodes); do ! running "$i" || die "node $i is running: cluster.sh down first"; done
    # Nothing but what this script made: DIR may be anything.
    rm -rf "$DATA"/node[1-9]* "$DATA/bootstrapped"
    rmdir "$DATA" 2>/dev/null || note "$DATA has other files, which stay"
    ;;
  endpoints) endpoints; echo ;;
  *) usage ;;
esac
