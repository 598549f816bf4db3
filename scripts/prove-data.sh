#!/usr/bin/env bash
# Data at size, with release binaries and kvctl: prove-data.sh [backup | big]... (default: both). `backup` saves a million keys under load and restores
# them into clusters of 1 and of 5 nodes; `big` imports ten million small keys and compares rates, memory, stalls and the restart with 100,000. About 20
# minutes and 12 GB of disk, in TMPDIR. KVSVR_PROVE_SCALE=0.01 makes all of it a hundredth, to see whether the script works.
. "$(dirname "$0")/lib/common.sh"

case "${1:-}" in
  -h|--help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
esac
PARTS=("${@:-backup}")
[ $# -gt 0 ] || PARTS=(backup big)
for part in "${PARTS[@]}"; do case "$part" in backup|big) ;; *) die "unknown part $part: backup or big" ;; esac; done
set_up
build_release
SCALE="${KVSVR_PROVE_SCALE:-1}"
WORK=$(mktemp -d "${TMPDIR:-/tmp}/kvsvr-prove-data.XXXXXX")
export KVSVR_BASE_PORT="${KVSVR_BASE_PORT:-7400}"
cluster() { scripts/cluster.sh --data "$WORK/main" --shards 4 "$@"; }
# Another cluster, whose ports lie N further.
other() { local n=$1; shift; KVSVR_BASE_PORT=$((KVSVR_BASE_PORT + n)) scripts/cluster.sh --data "$WORK/other$n" "$@"; }
finish() {
  trap - EXIT INT TERM
  local data
  for data in "$WORK"/main "$WORK"/other*; do
    [ ! -d "$data" ] || scripts/cluster.sh --data "$data" down >/dev/null 2>&1 || true
  done
  rm -rf "$WORK"
}
trap finish EXIT
trap 'exit 1' INT TERM
scaled() { python3 -c 'import sys; print(max(1, int(float(sys.argv[1]) * float(sys.argv[2]))))' "$1" "$SCALE"; }
now() { date +%s.%N; }
since() { python3 -c 'import sys; print("%.1f" % (float(sys.argv[2]) - float(sys.argv[1])))' "$1" "$(now)"; }
field() { python3 -c '
import json, sys
value = json.load(sys.stdin)
for name in sys.argv[1].split("."):
    value = value[int(name) if isinstance(value, list) else name]
print(value)' "$1"; }
prove() { printf 'prove: %s\n' "$*"; }

# N records with keys from FIRST on and values of BYTES, spread over 1,000 partitions.
records() {
  python3 -c '
import sys
first, n, size = map(int, sys.argv[1:])
value = "abcdefghijklmnopqrstuvwxyz0123456789" * (1 + size // 36)
out = sys.stdout
for i in range(first, first + n):
    at = i % 36
    out.write("{\"partition\":\"user-%d\",\"key\":\"k%09d\",\"value\":\"%s\"}\n" % (i % 1000, i, value[at:at + size]))
' "$1" "$2" "$3"
}
# All records of a cluster (its endpoints: $1), partition by partition, in a form that can be compared.
contents() {
  local partitions
  mapfile -t partitions < <(seq -f '--partition=user-%.0f' 0 999)
  "$BIN/kvctl" --endpoints "$1" --timeout 30s export - "${partitions[@]}" | sha256sum | cut -c1-16
}

start() {
  cluster up 3
  EP=$(cluster endpoints)
}
ctl() { "$BIN/kvctl" --endpoints "$EP" "$@"; }

backup() {
  local keys began took whole got nodes
  keys=$(scaled 1000000)
  start
  say "importing $keys records of 200 bytes"
  records 0 "$keys" 200 >"$WORK/records.jsonl"
  ctl import "$WORK/records.jsonl"
  rm "$WORK/records.jsonl"
  whole=$(contents "$EP")
  say "saving a snapshot while 32 clients write"
  # Not by `ctl`: that would be a shell, which dies alone.
  "$BIN/kvctl" --endpoints "$EP" bench put --rate 2000 --clients 32 --keys 10000 --warmup 0s --duration 3600s >/dev/null 2>&1 &
  local load=$!
  began=$(now)
  ctl --timeout 600s snapshot save "$WORK/snapshot"
  took=$(since "$began")
  kill "$load" 2>/dev/null || die "the load ended early"
  wait "$load" 2>/dev/null || true
  "$BIN/kvctl" snapshot verify "$WORK/snapshot"
  prove "backup: $keys keys and a load of 2,000 writes/s saved in $took s, $(du -m "$WORK/snapshot" | cut -f1) MiB, verified"
  say "a byte that is flipped"
  cp "$WORK/snapshot" "$WORK/flipped"
  python3 -c '
import os, sys
with open(sys.argv[1], "r+b") as file:
    place = os.path.getsize(sys.argv[1]) // 2
    file.seek(place)
    byte = file.read(1)
    file.seek(place)
    file.write(bytes([byte[0] ^ 4]))' "$WORK/flipped"
  ! "$BIN/kvctl" snapshot verify "$WORK/flipped" || die "a flipped byte was not found"
  rm "$WORK/flipped"
  cluster down
  for nodes in 1 5; do
    say "restoring into a cluster of $nodes"
    local i to=""
    for i in $(seq "$nodes"); do
      other $((nodes * 10)) new "$i"
      to="$to${to:+,}127.0.0.1:$((KVSVR_BASE_PORT + nodes * 10 + i))"
    done
    began=$(now)
    "$BIN/kvctl" --endpoints "$to" --yes --timeout 600s snapshot restore "$WORK/snapshot" --nodes "$to"
    took=$(since "$began")
    "$BIN/kvctl" --endpoints "$to" --timeout 120s verify
    got=$(contents "$to")
    [ "$got" = "$whole" ] || die "the restored cluster of $nodes has other records than were imported"
    prove "restore: into $nodes nodes in $took s, every record the same, verify equal"
    other $((nodes * 10)) down
    rm -rf "$WORK/other$((nodes * 10))"
  done
  rm "$WORK/snapshot"
  cluster clean
}

# Rates of puts and gets over so many keys: PUTS GETS.
rates() {
  local workload
  for workload in put get; do
    ctl -o json bench "$workload" --clients 64 --keys "$1" --value-size 32 --warmup 3s --duration 10s 2>/dev/null | tail -1 | field ops_per_s
  done
}
resident_mib() { # of the largest node
  cat "$WORK"/main/node*.pid | while read -r pid; do awk '/^VmRSS/ {print int($2 / 1024)}' "/proc/$pid/status"; done | sort -n | tail -1
}

big() {
  local few many before after began took peak
  few=$(scaled 100000)
  many=$(scaled 10000000)
  start
  ctl bench put --load --clients 64 --keys "$few" --value-size 32 --warmup 0s --duration 1s >/dev/null
  mapfile -t before < <(rates "$few")
  say "importing $many records of 32 bytes"
  began=$(now)
  records 0 "$many" 32 | ctl import - &
  local import=$! mib
  peak=0
  while kill -0 "$import" 2>/dev/null; do
    mib=$(resident_mib); [ "$mib" -le "$peak" ] || peak=$mib
    ctl -o json bench put --rate 50 --clients 16 --keys 1000 --value-size 32 --warmup 0s --duration 2s 2>/dev/null | tail -1 >>"$WORK/probe.json"
  done
  wait "$import" || die "the import failed"
  took=$(since "$began")
  prove "import: $many records in $took s"
  prove "stalls: a probe of 50 puts/s meanwhile: $(python3 -c '
import json, sys
runs = [json.loads(line) for line in open(sys.argv[1])]
slowest = sorted(run["max_ms"] for run in runs)
print("%d failed, longest %.0f ms, median of the longest in 2 s %.0f ms" % (sum(run["errors"] for run in runs), slowest[-1], slowest[len(slowest) // 2]))
' "$WORK/probe.json")"
  ctl bench put --load --clients 256 --keys "$many" --value-size 32 --warmup 0s --duration 1s >/dev/null
  mapfile -t after < <(rates "$many")
  prove "rates: puts ${before[0]} -> ${after[0]}/s, gets ${before[1]} -> ${after[1]}/s, with $few and with $many keys"
  mib=$(resident_mib); [ "$mib" -le "$peak" ] || peak=$mib
  prove "memory: at most $peak MiB resident in a node"
  say "killing node 1 and starting it again"
  cluster kill 1
  began=$(now)
  cluster start 1
  until curl -fs "http://127.0.0.1:$((KVSVR_BASE_PORT + 1001))/readyz" >/dev/null; do sleep 0.05; done
  prove "restart: killed with $many keys, ready after $(since "$began") s"
  du -sm "$WORK"/main/node[1-9] | sed 's/^/    /'
  cluster down
  cluster clean
}

for part in "${PARTS[@]}"; do "$part"; done
say "done"
