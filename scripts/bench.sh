#!/usr/bin/env bash
# kvsvr beside etcd on this host: three nodes each, the same driver and parameters, fsync on in both, alternating and repeated.
# Writes a table to the terminal, docs/bench.json and docs/bench.svg, and what the row cache does under a zipfian load. `bench.sh --quick`
# is one short round, for a look; its files go to the cache folder.
. "$(dirname "$0")/lib/common.sh"

ROUNDS=3; SECONDS_EACH=8; WARMUP=2; KEYS=100000; VALUE=256; SHARDS="${KVSVR_BENCH_SHARDS:-1}"
# Connections (etcd) or client instances (kvsvr), as suits each best; ZIPF_KEYS do not fit into the caches.
CONNECTIONS_etcd=8; CONNECTIONS_kvsvr=2; ZIPF_KEYS=1000000
CLIENTS_PUT="1 64 256 1024"; CLIENTS_GET="1 64 256 1024"
OUT="$ROOT/docs"
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) ROUNDS=1; SECONDS_EACH=3; WARMUP=1; CLIENTS_PUT="1 64 1024"; CLIENTS_GET="1 64 1024"; ZIPF_KEYS=200000; OUT="$CACHE/bench"; shift ;;
    --rounds) ROUNDS="${2:?}"; shift 2 ;;
    --out) OUT="${2:?}"; shift 2 ;;
    -h|--help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
    *) die "unknown flag $1" ;;
  esac
done
set_up --etcd
build_release
mkdir -p "$OUT"
WORK=$(mktemp -d "${TMPDIR:-/tmp}/kvsvr-bench.XXXXXX")
ETCD_PIDS=""
cleanup() {
  KVSVR_BASE_PORT=7300 scripts/cluster.sh --data "$WORK/kvsvr" down >/dev/null 2>&1 || true
  [ -z "$ETCD_PIDS" ] || kill -KILL $ETCD_PIDS 2>/dev/null || true
  rm -rf "$WORK"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

KV_ENDPOINTS=127.0.0.1:7301,127.0.0.1:7302,127.0.0.1:7303
ET_ENDPOINTS=127.0.0.1:7411,127.0.0.1:7412,127.0.0.1:7413
start_kvsvr() { KVSVR_BASE_PORT=7300 scripts/cluster.sh --data "$WORK/kvsvr" --shards "$SHARDS" up 3 >/dev/null; }
stop_kvsvr() { KVSVR_BASE_PORT=7300 scripts/cluster.sh --data "$WORK/kvsvr" down >/dev/null; rm -rf "$WORK/kvsvr"; }
start_etcd() {
  local cluster="e1=http://127.0.0.1:7421,e2=http://127.0.0.1:7422,e3=http://127.0.0.1:7423"
  ETCD_PIDS=""
  for i in 1 2 3; do
    etcd --name "e$i" --data-dir "$WORK/etcd$i" --log-level error --quota-backend-bytes 8589934592 \
      --listen-client-urls "http://127.0.0.1:741$i" --advertise-client-urls "http://127.0.0.1:741$i" \
      --listen-peer-urls "http://127.0.0.1:742$i" --initial-advertise-peer-urls "http://127.0.0.1:742$i" \
      --initial-cluster "$cluster" --initial-cluster-state new >"$WORK/etcd$i.log" 2>&1 &
    ETCD_PIDS="$ETCD_PIDS $!"
  done
  for _ in $(seq 150); do
    curl -fs http://127.0.0.1:7411/health 2>/dev/null | grep -q true && return 0
    sleep 0.1
  done
  die "etcd does not start: $(tail -3 "$WORK"/etcd1.log)"
}
stop_etcd() { kill -TERM $ETCD_PIDS 2>/dev/null || true; wait $ETCD_PIDS 2>/dev/null || true; ETCD_PIDS=""; rm -rf "$WORK"/etcd[123]; }

RESULTS="$WORK/results.jsonl"; : >"$RESULTS"
one() { # target workload clients
  local endpoints=$KV_ENDPOINTS
  [ "$1" = kvsvr ] || endpoints=$ET_ENDPOINTS
  local connections="CONNECTIONS_$1"
  connections=$((${!connections} < $3 ? ${!connections} : $3))
  "$BIN/kvctl" --endpoints "$endpoints" -o json bench "$2" --target "$1" --clients "$3" --connections "$connections" --keys "$KEYS" \
    --value-size "$VALUE" --duration "${SECONDS_EACH}s" --warmup "${WARMUP}s" | tr -d '\n' >>"$RESULTS"
  echo >>"$RESULTS"
  tail -1 "$RESULTS" | python3 -c 'import json,sys; r=json.load(sys.stdin); print("    {target:6} {workload:6} {clients:5} clients  {ops_per_s:10.0f}/s  p50 {p50_ms:7.3f} ms  p99 {p99_ms:8.3f} ms  errors {errors}".format(**r))'
}
load() { # target: fills all keys once
  local endpoints=$KV_ENDPOINTS
  [ "$1" = kvsvr ] || endpoints=$ET_ENDPOINTS
  "$BIN/kvctl" --endpoints "$endpoints" bench get --load --target "$1" --clients 256 --keys "$KEYS" --value-size "$VALUE" \
    --duration 1s --warmup 0s >/dev/null
}

for round in $(seq "$ROUNDS"); do
  for target in kvsvr etcd; do
    say "round $round of $ROUNDS: $target"
    "start_$target"
    load "$target"
    for c in $CLIENTS_PUT; do one "$target" put "$c"; done
    for c in $CLIENTS_GET; do one "$target" get "$c"; done
    "stop_$target"
  done
done

# The row cache: the same zipfian reads (5 % writes) with it and without.
ZIPF="$WORK/zipf.jsonl"; : >"$ZIPF"
lookups() { # hits or misses, all nodes
  for i in 1 2 3; do curl -fs "http://127.0.0.1:$((8300 + i))/metrics" | sed -n "s/^kvsvr_row_cache_$1_total //p"; done |
    awk '{n += $1} END {printf "%d", n}'
}
zipf() { # on or off
  say "row cache $1: zipfian over $ZIPF_KEYS keys"
  local flags=""
  [ "$1" = on ] || flags="--set memory.row_cache=0"
  KVSVR_SERVE_FLAGS=$flags start_kvsvr
  "$BIN/kvctl" --endpoints $KV_ENDPOINTS bench ycsb-b --load --clients 256 --keys "$ZIPF_KEYS" --value-size "$VALUE" --duration 1s \
    --warmup 0s >/dev/null
  "$BIN/kvctl" --endpoints $KV_ENDPOINTS bench ycsb-b --clients 256 --keys "$ZIPF_KEYS" --value-size "$VALUE" --duration "${SECONDS_EACH}s" \
    --warmup 0s >/dev/null
  local hits misses
  hits=$(lookups hits); misses=$(lookups misses)
  "$BIN/kvctl" --endpoints $KV_ENDPOINTS -o json bench ycsb-b --clients 256 --connections 2 --keys "$ZIPF_KEYS" --value-size "$VALUE" \
    --duration "${SECONDS_EACH}s" --warmup 0s | tr -d '\n' >"$WORK/zipf.json"
  # After the run: the counters that are read below belong to it.
  python3 -c 'import json,sys; r=json.load(sys.stdin); r.update(row_cache=sys.argv[1], hits=int(sys.argv[2]), misses=int(sys.argv[3])); print(json.dumps(r))' \
      "$1" "$(($(lookups hits) - hits))" "$(($(lookups misses) - misses))" <"$WORK/zipf.json" >>"$ZIPF"
  stop_kvsvr
}
for round in $(seq "$ROUNDS"); do zipf on; zipf off; done

python3 scripts/lib/bench_report.py "$RESULTS" "$OUT" --zipf "$ZIPF" \
  --kvsvr "$("$BIN/kvsvr" version | head -1)" --etcd "$(etcd --version | head -1)" \
  --param keys="$KEYS" --param value_bytes="$VALUE" --param rounds="$ROUNDS" --param seconds="$SECONDS_EACH" --param shards="$SHARDS" \
  --param connections_etcd="$CONNECTIONS_etcd" --param connections_kvsvr="$CONNECTIONS_kvsvr" --param zipf_keys="$ZIPF_KEYS"
