#!/usr/bin/env bash
# Builds the release binaries and the fault harness and runs it: `jepsen.sh run --nodes 5 --minutes 10`, `jepsen.sh run --help` for the rest.
# docs/jepsen.md says what it does. As root it has namespaces of its own; otherwise it says what it cannot do.
. "$(dirname "$0")/lib/common.sh"
case "${1:-}" in ""|-h|--help) sed -n '2,3s/^# //p' "$0"; exit 0 ;; esac
# What is asked for may go to a file.
{ set_up; build_jepsen; } >&2
cd "$CALLER"
exec "$BIN/jepsen" "$@"
