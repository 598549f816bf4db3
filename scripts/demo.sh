#!/usr/bin/env bash
# A three-node cluster on this machine, a small tour of it, and the chat on top. Ctrl-C stops it cleanly. `demo.sh --check` takes the tour without a person
# and exits 0 only if everything held.
. "$(dirname "$0")/lib/common.sh"
CHECK=""
case "${1:-}" in "") ;; --check) CHECK=1 ;; -h|--help) sed -n '2,3s/^# //p' "$0"; exit 0 ;; *) die "unknown flag $1" ;; esac

set_up
build_chat
WORK=$(mktemp -d "${TMPDIR:-/tmp}/kvsvr-demo.XXXXXX")
export KVSVR_BASE_PORT="${KVSVR_BASE_PORT:-7100}"
cluster() { scripts/cluster.sh --data "$WORK" "$@"; }
stop() {
  trap - EXIT INT TERM
  say "stopping the chat and the cluster"
  for process in "${!CHAT[@]}"; do chat_kill "$process" TERM; done
  cluster down || true
  rm -rf "$WORK"
}
# Processes of the chat backend, by name.
declare -A CHAT=()
chat_start() { # NAME PROGRAM ARGUMENTS
  local name=$1
  shift
  "$BIN/$1" "${@:2}" --secrets "$WORK/chat-secrets" >>"$WORK/$name.log" 2>&1 &
  CHAT[$name]=$!
}
chat_kill() { # NAME SIGNAL
  kill "-$2" "${CHAT[$1]}" 2>/dev/null || true
  wait "${CHAT[$1]}" 2>/dev/null || true
  unset "CHAT[$1]"
}
trap stop EXIT
trap 'exit 0' INT TERM

say "starting three nodes"
cluster up 3
EP=$(cluster endpoints)
ctl() { "$BIN/kvctl" --endpoints "$EP" "$@"; }

say "importing this system's package list"
if command -v dpkg-query >/dev/null 2>&1; then
  dpkg-query -W -f '${Package}\t${Version}\n' 
else
  ls -l /usr/bin | awk 'NR>1 {print $NF "\t" $5}'
fi | python3 -c '
import json, sys
for line in sys.stdin:
    name, version = line.rstrip("\n").split("\t")
    print(json.dumps({"partition": "packages-" + name[0], "key": name, "value": version}))
' >"$WORK/packages.jsonl"
COUNT=$(wc -l <"$WORK/packages.jsonl")
ctl import "$WORK/packages.jsonl"

say "reading some of it back: kvctl range packages-l --prefix lib --limit 5"
ctl range packages-l --prefix lib --limit 5 || true

say "a transaction: only if nobody was faster"
printf 'if not exists("greeting")\nthen\n  put "greeting" "hello"\n  append "log" "greeted"\n' | ctl txn demo -
ctl get demo greeting

say "killing the leader of a shard (kill -9)"
leader() {
  ctl -o json cluster status | python3 -c '
import json, sys
shards = json.load(sys.stdin)["shards"]
print(next(s["leader"] for s in shards if int(s["id"]) != 0 and s["leader"]))' 2>/dev/null
}
LEADER=$(leader)
cluster kill "$LEADER"
note "writing and reading go on"
ctl --timeout 10s put demo after-the-kill "still here" >/dev/null
ctl --timeout 10s get demo after-the-kill

count() {
  local found=0 n p
  for p in $(python3 -c '
import json, sys
print(" ".join(sorted({json.loads(l)["partition"] for l in open(sys.argv[1])})))' "$WORK/packages.jsonl"); do
    n=$(ctl --timeout 10s -o json range "$p" --all --keys-only | wc -l)
    found=$((found + n))
  done
  note "$found of $COUNT records found"
  [ "$found" = "$COUNT" ] || die "records were lost"
}
say "counting what was imported: nothing may be lost"
count

say "starting node $LEADER again"
cluster start "$LEADER"
ctl --timeout 30s cluster health --wait

HOST=127.0.0.1
say "a fourth node: kvctl member add"
cluster new 4
ctl member add "$HOST:$((KVSVR_BASE_PORT + 4))"
say "node 1 is to be empty for a while: kvctl drain, undrain"
ctl drain 1
ctl undrain 1
say "node 2 loses its disk, and a new one gets its place: kvctl member replace"
cluster lose 2
cluster start 2
ctl --yes member replace 2 "$HOST:$((KVSVR_BASE_PORT + 2))"
say "counting again"
count
say "do all replicas hold the same? kvctl verify"
ctl verify
ctl cluster status

EP=$(cluster endpoints)
logic_port() { echo $((KVSVR_BASE_PORT + 800 + $1)); }
logic_start() { chat_start "logic-$1" chat-logic --endpoints "$EP" --listen "$HOST:$(logic_port "$1")"; }
GATEWAY="$HOST:$((KVSVR_BASE_PORT + 880))"
say "the chat: two processes of services, a gateway, and some users"
logic_start 1
logic_start 2
chat_start access chat-access --logic "$HOST:$(logic_port 1),$HOST:$(logic_port 2)" --listen "$GATEWAY"
for _ in $(seq 300); do curl -fs "http://$GATEWAY/readyz" >/dev/null 2>&1 && break; sleep 0.1; done
curl -fsS "http://$GATEWAY/readyz" >/dev/null || { tail -n 5 "$WORK"/logic-*.log "$WORK/access.log"; die "the chat does not start"; }
"$BIN/chat" seed --gateway "$GATEWAY"

say "conversations go on while processes of services and leaders of shards are killed (kill -9), again and again"
python3 -c '
import json
for conversation in range(60):
    for seq in range(1, 61):
        speaker = "ab"[seq % 2]
        print(json.dumps({"conversation": f"talk {conversation}", "seq": seq, "from": speaker, "text": f"line {seq} of {conversation}"}))
' >"$WORK/talk.jsonl"
"$BIN/chat" replay "$WORK/talk.jsonl" --gateways "$GATEWAY" --at-a-time 4 &
REPLAY=$!
KILLS=0
while kill -0 "$REPLAY" 2>/dev/null; do
  sleep 4
  # A shard may have no leader just then.
  LEADER=$(leader || true)
  [ -n "$LEADER" ] || continue
  chat_kill logic-$((KILLS % 2 + 1)) KILL
  cluster kill "$LEADER"
  logic_start $((KILLS % 2 + 1))
  cluster start "$LEADER"
  KILLS=$((KILLS + 1))
done
wait "$REPLAY" || { tail -n 5 "$WORK"/logic-*.log "$WORK/access.log"; die "not every line arrived at every device, once and in order"; }
note "$KILLS processes of services and as many nodes were killed meanwhile, and started again"
ctl --timeout 30s cluster health --wait

if [ -n "$CHECK" ]; then
  say "demo: everything held"
  exit 0
fi
cat <<EOF

The cluster is running. Try, in another terminal:
  $BIN/kvctl --endpoints $EP cluster status
  $BIN/kvctl --endpoints $EP put alice name "Alice Liddell"
  $BIN/kvctl --endpoints $EP watch alice
  $BIN/kvctl --endpoints $EP bench put --clients 64 --duration 5s
  http://127.0.0.1:$((KVSVR_BASE_PORT + 1001))/  (metrics, health and status of node 1)
The chat is at http://$GATEWAY/: log in as alice in one browser and as bob in another one (or in a private window).
Ctrl-C stops it and removes its data.
EOF
while :; do sleep 3600 & wait $!; done
