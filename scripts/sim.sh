#!/usr/bin/env bash
# Builds the simulator and runs it: `sim.sh run --seed 7 --report DIR`, `sim.sh sweep --seeds 0..2000`, `sim.sh meta --seeds 0..200`,
# `sim.sh mutants` (planted bugs), `sim.sh help` for the rest. With `--engine rocks` nodes have RocksDB. docs/sim.md says what it does.
. "$(dirname "$0")/lib/common.sh"
case "${1:-}" in ""|-h|--help) sed -n '2,3s/^# //p' "$0"; exit 0 ;; esac
rocks=""
case " $* " in *" --engine rocks "* | *" --engine=rocks "*) rocks=rocks ;; esac
# What is asked for may go to a file.
{ set_up; build_sim $rocks; } >&2
cd "$CALLER"
if [ "$1" = mutants ]; then
  shift
  exec "$MUTANTS" "$@"
fi
exec "$SIM" "$@"
