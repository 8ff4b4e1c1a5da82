#!/usr/bin/env bash
# Accuracy per byte against peers: llama.cpp's K-quants with importance matrix, mlx-lm's dynamic_quant, dwq, gptq and awq, and
# mlx-optiq; then `optiq quantize --effort balanced` within the bytes of each. Needs `make reference`, OPTIQ_DATA and the
# environments of bench/peers/README.md. The mlx peers want a GPU or a Mac (README.md): on a CPU they take hours to days.
# usage: bench/quality/peers.sh OPTIQ_BINARY [WINDOWS] [PEER...]   PEER: llama, or one of dynamic_quant dwq dwq3 gptq awq
#        mlx-optiq (all unless given). Results: out/quality/peer-*.json and a line each on stdout.
set -euo pipefail
cd "$(dirname "$0")/../.."
optiq=$1 windows=${2:-32}
shift $(($# < 2 ? $# : 2))
peers=("$@")
[ $# -gt 0 ] || peers=(llama dynamic_quant dwq dwq3 gptq awq mlx-optiq)
model=models/reference
out=out/quality
folders=build/peers/models
text=$OPTIQ_DATA/wikitext2
profile=$out/gptq.sensitivity.json
importance=$out/gptq.sensitivity.importance.safetensors
mkdir -p "$out" "$folders"
[ -f "$importance" ] || "$optiq" profile "$model" -o "$profile" --calibration "$text/wiki.train.head.txt" --quiet > /dev/null

show() {  # NAME BYTES FILE
  python3 - "$@" <<'PYTHON'
import json, sys
q = json.load(open(sys.argv[3]))
print(f"{sys.argv[1]}: {sys.argv[2]} bytes, KL {q['kl_mean']:.5f} ± {q['kl_stderr']:.5f}, "
      f"PPL {q['ppl']:.3f} ± {q['ppl_stderr']:.3f}", flush=True)
PYTHON
}

bytes_of() { cat "$1"/*.safetensors | wc -c; }

evaluate() {  # NAME FOLDER
  local result=$out/peer-$1.json
  [ -f "$result" ] || { "$optiq" eval "$2" --reference "$model" --text "$text/wiki.test.raw" --context 512 --windows "$windows" \
    --quiet --json > "$result.tmp"; mv "$result.tmp" "$result"; }
  show "$1" "$(bytes_of "$2")" "$result"
}

ours() {  # NAME BYTES: within the bytes of peer NAME
  [ -d "$folders/ours-$1" ] || "$optiq" quantize "$model" "$folders/ours-$1" --size "$2" --sensitivity "$profile" \
    --calibration "$text/wiki.train.head.txt" --eval-sequences 8 --quiet --json > "$out/peer-ours-$1.quantize.json"
  evaluate "ours-$1" "$folders/ours-$1"
}

learned() {  # NAME METHOD ARGUMENT...: one of mlx-lm's methods
  local name=$1 method=$2 folder=$folders/quality-mlx-lm-$1
  shift 2
  # --dense-products: the quantized modules' products from dequantized matrices, which only dwq and awq need.
  [ -d "$folder" ] || build/peers/mlx-lm/bin/python bench/peers/mlx_lm_learned.py "$method" --importance "$importance" \
    --text "$text/wiki.train.head.txt" --dense-products -- --model "$model" --mlx-path "$folder" "$@" > "$out/peer-$name.log" 2>&1
  evaluate "$name" "$folder"
  ours "$name" "$(bytes_of "$folder")"
}

for peer in "${peers[@]}"; do
  case $peer in
    llama)
      build/peers/venv-llama/bin/python bench/peers/llama_cpp_quality.py --importance "$importance" \
        --text "$text/wiki.test.raw" --windows "$windows" --results "$out/peer-llama.json"
      for type in Q4_K_M Q3_K_M Q2_K; do
        ours "$type" "$(python3 -c "import json, sys
print(next(r['bytes'] for r in json.load(open('$out/peer-llama.json')) if r['name'] == '$type'))")"
      done ;;
    dynamic_quant) learned dynamic_quant dynamic_quant ;;
    dwq) learned dwq dwq --learning-rate 3e-5 ;;  # The best of 1e-6 (its default) to 3e-4 by its own validation loss.
    dwq3) learned dwq3 dwq --bits 3 --learning-rate 1e-4 ;;
    gptq | awq) learned "$peer" "$peer" ;;
    mlx-optiq)
      folder=$folders/quality-mlx-optiq
      [ -d "$folder" ] || build/peers/venv-mlx-optiq/bin/optiq convert "$model" -o "$folder" --skip-baselines \
        > "$out/peer-mlx-optiq.log" 2>&1
      evaluate mlx-optiq "$folder/optiq_mixed"
      ours mlx-optiq "$(bytes_of "$folder/optiq_mixed")" ;;
    *) echo "no peer $peer" >&2; exit 64 ;;
  esac
done
