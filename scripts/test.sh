#!/usr/bin/env bash
# From a fresh clone: sets up, then format, lint and every test. Budget on two cores: 60 minutes cold, 15 warm.
. "$(dirname "$0")/lib/common.sh"
set_up --test

say "format"
cargo fmt --all -- --check
in_sim cargo fmt --all -- --check

say "lint"
cargo clippy --workspace --features kvsvr-jepsen/runner --all-targets --locked -- -D warnings
cargo clippy -p kvsvr --no-default-features --all-targets --locked -- -D warnings
in_sim cargo clippy --release --all-targets --locked -- -D warnings
in_sim cargo clippy --release --features rocks --workspace --all-targets --locked -- -D warnings

say "docs"
RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --features kvsvr-jepsen/runner --no-deps --locked --quiet

if command -v cargo-deny >/dev/null 2>&1; then
  say "licences and duplicate dependencies"
  cargo deny --offline --locked check licenses bans sources
else
  note "licences are not checked: cargo-deny is not installed (cargo install --locked cargo-deny)"
fi

say "tests"
cargo build --workspace --features kvsvr-jepsen/runner --locked --bins
cargo nextest run --workspace --features kvsvr-jepsen/runner --locked --no-fail-fast
say "documentation tests"
cargo test --workspace --features kvsvr-jepsen/runner --doc --locked

build_sim rocks
# With what files on RocksDB's disk are after a power loss, a few seeds with RocksDB, and planted bugs of the engine.
say "the simulator's own tests"
in_sim cargo nextest run --release --locked --features rocks --no-fail-fast
say "the same seed gives the same run, in two processes"
"$SIM" meta --seeds 0..5
say "plans that failed once"
"$SIM" corpus
say "plans of two minutes"
# Always from the same seed on: what is tested here must not depend on the day. Longer sweeps look elsewhere.
"$SIM" sweep --seeds 0..1000 --minutes 2 --all-events false --reports "${TMPDIR:-/tmp}/kvsvr-sim-failures"
say "planted bugs are found"
"$MUTANTS" --canary
"$MUTANTS" ack-before-fsync sessions-lost-in-snapshot lease-longer-than-promised --seeds 0..100

build_jepsen
say "release binaries under faults for two minutes"
"$BIN/jepsen" run --minutes 1.5 --report "${TMPDIR:-/tmp}/kvsvr-jepsen-report"
