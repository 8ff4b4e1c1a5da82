#!/usr/bin/env bash
# Quality at equal real file bytes: uniform rounding to nearest, our allocation with rounding to nearest, and our defaults, at
# the sizes of uniform 3, 4 and 5 bits in groups of 64. Needs `make reference` and OPTIQ_DATA.
# usage: bench/quality/allocation.sh OPTIQ_BINARY [WINDOWS]       Results: out/quality/*.json and a table on stdout.
set -euo pipefail
cd "$(dirname "$0")/../.."
optiq=$1 windows=${2:-64}
model=models/reference
out=out/quality
text=$OPTIQ_DATA/wikitext2
mkdir -p "$out"

for encoder in range rtn; do
  sensitivity=$out/$encoder.sensitivity.json
  [ -f "$sensitivity" ] || "$optiq" profile "$model" -o "$sensitivity" --encoder "$encoder" \
    --calibration "$text/wiki.train.head.txt" --json > "$out/$encoder.profile.json"
done

evaluate() {  # NAME: encodes out/quality/NAME.plan.json and measures it
  [ -f "$out/$1.eval.json" ] && return
  "$optiq" encode "$model" "$out/$1.plan.json" "$out/$1.model" --quiet > /dev/null
  "$optiq" verify "$out/$1.model" > /dev/null
  "$optiq" eval "$out/$1.model" --reference "$model" --text "$text/wiki.test.raw" --context 512 --windows "$windows" --json \
    > "$out/$1.eval.tmp"
  mv "$out/$1.eval.tmp" "$out/$1.eval.json"
  rm -rf "$out/$1.model"
}

for bits in 3 4 5; do
  "$optiq" uniform "$out/range.sensitivity.json" "${bits}x64" --json -o "$out/uniform$bits.plan.json" > "$out/uniform$bits.json"
  bytes=$(python3 -c "import json; print(json.load(open('$out/uniform$bits.json'))['bytes'])")
  for encoder in rtn range; do
    "$optiq" plan "$out/$encoder.sensitivity.json" --size "$bytes" --json -o "$out/$encoder$bits.plan.json" > "$out/$encoder$bits.json"
  done
  evaluate "uniform$bits"
  evaluate "rtn$bits"
  evaluate "range$bits"
done
python3 bench/quality/summary.py "$out"
