#!/usr/bin/env bash
# The CPU loops of arm64 and their tests, cross-compiled and run in an emulator on x86-64 Debian: each table on a
# processor whose best it is. Ends with 77 where the tools are missing. usage: scripts/test_arm64.sh BUILD_FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1

if [ "$(uname -sm)" != "Linux x86_64" ]; then echo "skipped: made for x86-64 Linux"; exit 77; fi
for tool in aarch64-linux-gnu-g++ qemu-aarch64 /usr/src/googletest; do
  [ -e "$tool" ] || command -v "$tool" >/dev/null || { echo "skipped: no $tool; scripts/setup.sh installs it"; exit 77; }
done

cmake -S tests/arm64 -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_TOOLCHAIN_FILE=toolchain.cmake >/dev/null
cmake --build "$build"

run() { echo "== $1: $2"; MALLOC_PERTURB_=1 OPTIQ_CPU_ISA=$2 qemu-aarch64 -cpu "$1" "$build/optiq_arm64_test" --gtest_brief=1 "${@:3}"; }
run max neon-i8mm
run neoverse-n1 neon-dotprod
run cortex-a57 neon

# What a processor lacks is neither chosen nor taken by name.
for pair in "neoverse-n1 neon-i8mm" "cortex-a57 neon-dotprod"; do
  # shellcheck disable=SC2086
  if run $pair --gtest_filter=Isa.TheForcedOneRunsElseTheBest >"$build/refused.log" 2>&1; then
    echo "$pair: accepted, though the processor lacks it"; exit 1
  fi
  grep -q "expected what this machine has" "$build/refused.log"
done
