#!/usr/bin/env bash
# The end-to-end scenarios at full size, with release binaries: kills, lost disks, snapshots, watches, damage, bad input.
# Prints one line of figures for each. `prove.sh NAME...` runs the scenarios whose test name contains NAME. About 20 minutes.
. "$(dirname "$0")/lib/common.sh"

case "${1:-}" in
  -h|--help) sed -n '2,3s/^# //p' "$0"; exit 0 ;;
  -*) die "unknown flag $1" ;;
esac
set_up --test
# The scenario with 10,000 connections needs as many file handles; the nodes raise their own limit.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true

build_release
say "building the scenarios (release)"
# The nodes are the shipped binary; what a test builds of it is compiled for unwinding.
export KVSVR_TEST_BINARY="$BIN/kvsvr"
cargo test --release --locked -p kvsvr --test cluster --no-run

LOG=$(mktemp "${TMPDIR:-/tmp}/kvsvr-prove.XXXXXX")
say "running the scenarios, one at a time; everything they print is in $LOG"
if KVSVR_PROVE=1 RUST_BACKTRACE=0 cargo test --release --locked -p kvsvr --test cluster -- --nocapture --test-threads 1 "$@" >"$LOG" 2>&1; then
  sed -n 's/^.*\(prove: .*\)$/\1/p' "$LOG"
  say "all scenarios passed"
  rm -f "$LOG"
else
  sed -n 's/^.*\(prove: .*\)$/\1/p' "$LOG"
  grep -E "panicked at|^test .*FAILED|test result: FAILED" -A 2 "$LOG" >&2 || true
  die "a scenario failed; see $LOG"
fi
