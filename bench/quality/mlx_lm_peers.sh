#!/usr/bin/env bash
# KL and perplexity of what mlx-lm's own converter gives: uniform 4 bits and the recipes mixed_3_6 and mixed_4_6, groups of 64,
# measured by optiq eval against the same reference as bench/quality/allocation.sh. Needs `make reference`, OPTIQ_DATA and
# build/peers/mlx-lm (bench/peers/mlx_lm_logits.py says how to make it).
# usage: bench/quality/mlx_lm_peers.sh OPTIQ_BINARY [WINDOWS]     Results: out/quality/mlx-lm-*.eval.json and a line each on stdout.
set -euo pipefail
cd "$(dirname "$0")/../.."
optiq=$1 windows=${2:-32}
out=out/quality
mkdir -p "$out"

for recipe in uniform mixed_3_6 mixed_4_6; do
  folder=build/peers/models/quality-mlx-lm-$recipe
  bits=(--quant-predicate "$recipe")
  [ "$recipe" = uniform ] && bits=(--q-bits 4)
  [ -e "$folder" ] || build/peers/mlx-lm/bin/python -m mlx_lm convert --hf-path models/reference --mlx-path "$folder" -q \
    --q-group-size 64 "${bits[@]}" > "$out/mlx-lm-$recipe.log" 2>&1
  result=$out/mlx-lm-$recipe.eval.json
  [ -f "$result" ] || { "$optiq" eval "$folder" --reference models/reference-f32 --text "$OPTIQ_DATA/wikitext2/wiki.test.raw" \
    --context 512 --windows "$windows" --json > "$result.tmp"; mv "$result.tmp" "$result"; }
  python3 - "$recipe" "$folder" "$result" <<'PYTHON'
import json, pathlib, sys
name, folder, result = sys.argv[1:]
size = sum(path.stat().st_size for path in pathlib.Path(folder).glob("*.safetensors"))
found = json.load(open(result))
print(f"{name}: {size} bytes, KL {found['kl_mean']:.4f} ± {found['kl_stderr']:.4f}, "
      f"PPL {found['ppl']:.2f} ± {found['ppl_stderr']:.2f}")
PYTHON
done
