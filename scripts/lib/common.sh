# Sourced by the other scripts: where things go, and how they are built.
set -euo pipefail
CALLER=$PWD
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$ROOT"

# Builds live outside the clone, so that a second clone, or the next run, finds them.
CACHE="${KVSVR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvsvr}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$CACHE/target}"
TOOLS="$CACHE/tools"
mkdir -p "$CACHE" "$TOOLS"
export PATH="$TOOLS/bin:$PATH"

# RocksDB compiles in minutes once, and comes from the cache after that.
use_ccache() {
  command -v ccache >/dev/null 2>&1 || return 0
  export CC="ccache gcc" CXX="ccache g++"
  export CCACHE_MAXSIZE="${CCACHE_MAXSIZE:-5G}"
}

# Installs what is missing, for this script: setup.sh and its options.
set_up() {
  "$ROOT/scripts/setup.sh" "$@"
  use_ccache
  own_target
}

# Cargo compares the sources' times with the last build's and not where they lie: of two clones that share a target
# directory the second could be given the first one's binaries. What another clone built of this project is built anew.
own_target() {
  local owner="$CARGO_TARGET_DIR/.built-from"
  [ "$(cat "$owner" 2>/dev/null)" = "$ROOT" ] && return 0
  if [ -d "$CARGO_TARGET_DIR" ]; then
    cargo clean --quiet --workspace
    cargo clean --quiet --workspace --release
    [ ! -d "$SIM_TARGET" ] || in_sim cargo clean --quiet --workspace --release
  fi
  mkdir -p "$CARGO_TARGET_DIR"
  printf '%s\n' "$ROOT" >"$owner"
}

# The simulator is a workspace of its own: its flags (sim/.cargo/config.toml) make everything another build.
SIM_TARGET="$CARGO_TARGET_DIR/sim"
in_sim() { (cd "$ROOT/sim" && CARGO_TARGET_DIR="$SIM_TARGET" "$@"); }
SIM="$SIM_TARGET/release/kvsvr-sim"
MUTANTS="$SIM_TARGET/release/kvsvr-sim-mutants"
# With `rocks` its nodes can have RocksDB.
build_sim() {
  say "building the simulator${1:+ with $1}"
  in_sim cargo build --release --locked ${1:+--features "$1"}
}

bold=""; dim=""; red=""; plain=""
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  bold=$'\e[1m'; dim=$'\e[2m'; red=$'\e[31m'; plain=$'\e[0m'
fi
say() { printf '%s==>%s %s\n' "$bold" "$plain" "$*"; }
note() { printf '%s    %s%s\n' "$dim" "$*" "$plain"; }
die() { printf '%serror:%s %s\n' "$red" "$plain" "$*" >&2; exit 1; }

BIN="$CARGO_TARGET_DIR/release"
build_release() {
  say "building kvsvr and kvctl (release)"
  # Always with the same compiler: another one would compile RocksDB anew.
  use_ccache
  own_target
  [ -e "$BIN/kvsvr" ] || note "the first build compiles RocksDB: 12 to 16 minutes on two cores"
  cargo build --release --locked -p kvsvr -p kvctl
  export KVSVR_BUILT=1
}
build_chat() {
  build_release
  say "building the chat backend (release)"
  cargo build --release --locked -p chat
}
build_jepsen() {
  build_release
  say "building the fault harness (release)"
  cargo build --release --locked -p kvsvr-jepsen --features runner --bin jepsen
}
