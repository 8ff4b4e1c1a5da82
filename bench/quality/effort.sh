#!/usr/bin/env bash
# Quality of `quantize --effort fast|balanced|best` at the sizes of uniform 3 and 4 bits in groups of 64 and at 2.75 bits per
# weight, beside uniform rounding to nearest. Needs `make reference` and OPTIQ_DATA; an hour and more on two cores.
# usage: bench/quality/effort.sh OPTIQ_BINARY [WINDOWS]      Results: out/quality/effort-*.json and a line each on stdout.
set -euo pipefail
cd "$(dirname "$0")/../.."
optiq=$1 windows=${2:-32}
model=models/reference
out=out/quality
text=$OPTIQ_DATA/wikitext2
mkdir -p "$out"

measure() {  # NAME: out/quality/NAME on the test text
  "$optiq" eval "$out/$1" --reference "$model" --text "$text/wiki.test.raw" --context 512 --windows "$windows" --quiet --json \
    > "$out/effort-$1.json"
  python3 - "$1" "$out/effort-$1.json" <<'PYTHON'
import json, sys
q = json.load(open(sys.argv[2]))
print(f"{sys.argv[1]}: KL {q['kl_mean']:.4f} ± {q['kl_stderr']:.4f}, PPL {q['ppl']:.2f} ± {q['ppl_stderr']:.2f}", flush=True)
PYTHON
  rm -rf "${out:?}/$1"
}

for effort in fast balanced best; do
  # One profile serves every budget; balanced and best have the same.
  case $effort in fast) profile=$out/fast.sensitivity.json ;; *) profile=$out/gptq.sensitivity.json ;; esac
  for bits_per_weight in 2.75 3.507 4.507; do
    "$optiq" quantize "$model" "$out/$effort-$bits_per_weight" --effort "$effort" --bpw "$bits_per_weight" \
      --sensitivity "$profile" --calibration "$text/wiki.train.head.txt" --quiet --json > "$out/$effort-$bits_per_weight.json"
    measure "$effort-$bits_per_weight"
  done
done
for format in 2x64 3x64 4x64; do
  "$optiq" uniform "$out/gptq.sensitivity.json" "$format" -o "$out/uniform-$format.plan.json" > /dev/null
  "$optiq" encode "$model" "$out/uniform-$format.plan.json" "$out/uniform-$format" --quiet > /dev/null
  measure "uniform-$format"
done
