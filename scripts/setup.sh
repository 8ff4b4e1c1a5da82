#!/usr/bin/env bash
# Installs everything the build needs on Debian 12 or macOS, into the system's package manager and .deps/.
# usage: scripts/setup.sh [fuzz]   fuzz: also what the CMake preset `fuzz` needs (Debian only).
# Idempotent: what is already there at the pinned version is not touched.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/versions.env
deps=${OPTIQ_DEPS:-$PWD/.deps}
mkdir -p "$deps"
say() { printf 'setup: %s\n' "$*"; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

apt_packages=(build-essential cmake ninja-build git pkg-config python3 python3-venv libdnnl-dev nlohmann-json3-dev
  libbz2-dev libfmt-dev libexpected-dev libcli11-dev libgtest-dev libbenchmark-dev)
# For the tests of many workers: mpirun and Open MPI's library, 7 MB to load. (Its -dev package would bring a Fortran compiler.)
apt_packages+=(openmpi-bin)
# For scripts/test_arm64.sh; libgtest-dev brings GoogleTest's sources.
[ "$(uname -m)" != x86_64 ] || apt_packages+=(g++-aarch64-linux-gnu qemu-user)
fuzz_packages=(clang-14 libclang-rt-14-dev libomp-14-dev)
[ "${1:-}" != fuzz ] || apt_packages+=("${fuzz_packages[@]}")
brew_packages=(cmake ninja python@3.12 nlohmann-json fmt tl-expected cli11 googletest google-benchmark rust)

install_debian_packages() {
  local missing=() package
  for package in "${apt_packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
  done
  have_recent_cargo || missing+=(cargo-web rustc-web)
  [ ${#missing[@]} = 0 ] && return
  say "installing ${missing[*]}"
  as_root apt-get update -q
  DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -q --no-install-recommends "${missing[@]}"
}

# The bridge's crates need Rust 1.85 or newer; Debian 12's own `cargo` is older, its `cargo-web` is not.
have_recent_cargo() {
  command -v cargo >/dev/null && [ "$(printf '1.85\n%s\n' "$(cargo --version | awk '{print $2}')" | sort -V | head -1)" = 1.85 ]
}

install_brew_packages() {
  command -v brew >/dev/null || { say "Homebrew is needed: https://brew.sh"; exit 1; }
  local missing=() package
  for package in "${brew_packages[@]}"; do brew list --versions "$package" >/dev/null || missing+=("$package"); done
  [ ${#missing[@]} = 0 ] || brew install "${missing[@]}"
}

install_venv() {
  local mlx="mlx[cpu]==$OPTIQ_MLX_VERSION"
  [ "$(uname)" = Darwin ] && mlx="mlx==$OPTIQ_MLX_VERSION"
  if [ "$(cat "$deps/venv/.optiq-mlx" 2>/dev/null)" = "$mlx" ]; then return; fi
  say "MLX $OPTIQ_MLX_VERSION into $deps/venv"
  python3 -m venv --clear "$deps/venv"
  "$deps/venv/bin/python" -m pip install -q --disable-pip-version-check "$mlx"
  echo "$mlx" > "$deps/venv/.optiq-mlx"
}

# HiGHS is built from the sdist of its Python package, which is its own CMake tree less two files it does not need here.
install_highs() {
  if [ "$(cat "$deps/highs/.optiq-version" 2>/dev/null)" = "$OPTIQ_HIGHS_VERSION" ]; then return; fi
  say "building HiGHS $OPTIQ_HIGHS_VERSION (some minutes)"
  local work; work=$(mktemp -d "$deps/highs-build.XXXXXX")
  "$deps/venv/bin/python" -m pip download -q --disable-pip-version-check --no-deps --no-binary highspy -d "$work" \
    "highspy==$OPTIQ_HIGHS_VERSION"
  tar -C "$work" -xzf "$work/highspy-$OPTIQ_HIGHS_VERSION.tar.gz"
  local tree="$work/highspy-$OPTIQ_HIGHS_VERSION"
  mkdir -p "$tree/app"; touch "$tree/app/CMakeLists.txt" "$tree/highs.pc.in"
  cmake -S "$tree" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
    -DBUILD_SHARED_EXTRAS_LIB=OFF -DBUILD_EXAMPLES=OFF -DBUILD_TESTING=OFF -DBUILD_CXX_EXE=OFF -DZLIB=OFF \
    -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DCMAKE_INSTALL_LIBDIR=lib \
    -DCMAKE_INSTALL_PREFIX="$deps/highs" > "$work/log" 2>&1 &&
    cmake --build "$work/build" --target install >> "$work/log" 2>&1 || { tail -30 "$work/log"; exit 1; }
  echo "$OPTIQ_HIGHS_VERSION" > "$deps/highs/.optiq-version"
  rm -rf "$work"
}

install_bridge() {
  cargo build --quiet --release --locked --manifest-path rust/Cargo.toml --target-dir "$deps/rust"
  mkdir -p "$deps/lib"
  cmp -s "$deps/rust/release/liboptiq_bridge.a" "$deps/lib/liboptiq_bridge.a" ||
    cp "$deps/rust/release/liboptiq_bridge.a" "$deps/lib/"
}

if [ "$(uname)" = Darwin ]; then install_brew_packages; else install_debian_packages; fi
install_venv
install_highs
install_bridge
say "ready"
