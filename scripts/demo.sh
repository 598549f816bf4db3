#!/usr/bin/env bash
# A three-node cluster on this machine, and a small tour of it. Ctrl-C stops it cleanly. `demo.sh --check` takes the tour without a person
# and exits 0 only if everything held.
. "$(dirname "$0")/lib/common.sh"
CHECK=""
case "${1:-}" in "") ;; --check) CHECK=1 ;; -h|--help) sed -n '2,3s/^# //p' "$0"; exit 0 ;; *) die "unknown flag $1" ;; esac

set_up
build_release
WORK=$(mktemp -d "${TMPDIR:-/tmp}/kvsvr-demo.XXXXXX")
export KVSVR_BASE_PORT="${KVSVR_BASE_PORT:-7100}"
cluster() { scripts/cluster.sh --data "$WORK" "$@"; }
stop() {
  trap - EXIT INT TERM
  say "stopping the cluster"
  cluster down || true
  rm -rf "$WORK"
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
LEADER=$(ctl -o json cluster status | python3 -c '
import json, sys
shards = json.load(sys.stdin)["shards"]
print(next(s["leader"] for s in shards if int(s["id"]) != 0))')
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
Ctrl-C stops it and removes its data.
EOF
while :; do sleep 3600 & wait $!; done
