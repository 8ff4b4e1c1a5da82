#!/usr/bin/env bash
# Quantizes the reference model (SmolLM2-135M) to 4.5 bits per weight, compares it with uniform 4-bit quantization of no
# fewer bytes, and lets it answer a question. usage: scripts/demo.sh OPTIQ_BINARY
set -euo pipefail
optiq=$1
out=out/demo
mkdir -p out
echo
echo "== What it costs: 4.5 bits per weight, chosen by measured sensitivity, against uniform 4 bits"
"$optiq" quantize models/reference "$out" --bpw 4.5 --sensitivity out/demo.sensitivity.json --sequences 32 --label-draws 2
echo
echo "== What it says"
"$optiq" run "$out" "What is the capital of France?" --max-tokens 40
echo
echo "The checkpoint is in $out: mlx-lm loads it as it is. Open $out/report.html for the plots."
