#!/usr/bin/env python3
"""Do stock mlx-lm and optiq compute the same from one checkpoint? Compares their logits in f32.

Needs a virtual environment of its own; versions as in scripts/versions.env:
    python3 -m venv build/peers/mlx-lm
    build/peers/mlx-lm/bin/pip install 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2'     (on macOS: mlx==0.32.4)
    ninja -C build/dev optiq_logits
    build/peers/mlx-lm/bin/python bench/peers/mlx_lm_logits.py FOLDER [--tokens 64] [--logits build/dev/tools/optiq_logits]

The folder is opened by mlx_lm.utils.load_model, strictly, as `mlx_lm.generate` does: what it does not find or does not
know fails here. Then every floating-point parameter, scales and biases included, is cast to f32: MLX's CPU backend
accumulates bf16 products in bf16, which would drown the comparison (docs/profiling.md). Exit code 1 where the largest
difference exceeds --tolerance of the largest logit.
"""
import argparse
import pathlib
import random
import subprocess
import sys
import tempfile

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.utils import load_model


def peer_logits(folder: pathlib.Path, tokens: list[int]) -> mx.array:
    model, _ = load_model(folder)
    model.update(tree_map(lambda x: x.astype(mx.float32) if mx.issubdtype(x.dtype, mx.floating) else x,
                          model.parameters()))
    logits = model(mx.array([tokens]))[0]
    mx.eval(logits)
    return logits


def our_logits(program: str, folder: pathlib.Path, tokens: list[int]) -> mx.array:
    with tempfile.TemporaryDirectory() as scratch:
        out = f"{scratch}/logits.safetensors"
        subprocess.run([program, str(folder), out, *map(str, tokens)], check=True)
        logits = mx.load(out)["logits"]
        mx.eval(logits)
        return logits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, help="draw tokens below this (default: the model's)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--logits", default="build/dev/tools/optiq_logits")
    arguments = parser.parse_args()

    _, config = load_model(arguments.folder, lazy=True)
    source = random.Random(arguments.seed)
    tokens = [source.randrange(arguments.vocabulary or config["vocab_size"]) for _ in range(arguments.tokens)]
    theirs = peer_logits(arguments.folder, tokens)
    ours = our_logits(arguments.logits, arguments.folder, tokens)

    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == mx.float32
    largest = mx.abs(theirs).max().item()
    difference = mx.abs(ours - theirs).max().item() / largest
    agreement = mx.argmax(ours, axis=-1) == mx.argmax(theirs, axis=-1)
    agree = sum(agreement.tolist())
    print(f"{arguments.folder}: largest logit {largest:.3f}, largest difference {difference:.2e} of it, "
          f"argmax the same at {agree} of {len(tokens)} positions")
    return 0 if difference <= arguments.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
