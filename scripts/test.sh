#!/usr/bin/env bash
# From a fresh clone: sets up, then format, lint and every test. Budget on two cores: 60 minutes cold, 15 warm.
. "$(dirname "$0")/lib/common.sh"
set_up --test

say "format"
cargo fmt --all -- --check

say "lint"
cargo clippy --workspace --all-targets --locked -- -D warnings
cargo clippy -p kvsvr --no-default-features --all-targets --locked -- -D warnings

say "docs"
RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --locked --quiet

if command -v cargo-deny >/dev/null 2>&1; then
  say "licences and duplicate dependencies"
  cargo deny --offline --locked check licenses bans sources
else
  note "licences are not checked: cargo-deny is not installed (cargo install --locked cargo-deny)"
fi

say "tests"
cargo build --locked -p kvsvr -p kvctl
cargo nextest run --workspace --locked --no-fail-fast
say "documentation tests"
cargo test --workspace --doc --locked
