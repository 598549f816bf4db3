#!/usr/bin/env bash
# Builds the simulator and runs it (docs/sim.md says what it does):
#   sim.sh run --seed 7 --report DIR    one run, with a picture of it
#   sim.sh sweep --seeds 0..2000        many; --churn: operators change members meanwhile; --engine rocks: nodes have RocksDB
#   sim.sh meta --seeds 0..200          each seed twice: is it the same run?
#   sim.sh corpus                       plans that failed once
#   sim.sh replay PLAN, shrink PLAN     a plan again, and the smallest one that fails as it does
#   sim.sh mutants [NAME...]            are planted bugs found? (all, if none is named)
#   sim.sh help [COMMAND]               all commands but mutants, with their flags
# Exit code 0: all held; 1: something failed; 2: it was asked for in a wrong way; 130: interrupted.
. "$(dirname "$0")/lib/common.sh"
case "${1:-}" in ""|-h|--help) sed -n '2,10s/^# //p' "$0"; exit 0 ;; esac
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
