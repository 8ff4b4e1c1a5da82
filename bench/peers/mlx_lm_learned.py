#!/usr/bin/env python3
"""Runs mlx-lm's learned quantization (dynamic_quant, dwq, gptq, awq) with local calibration data in place of its download.

    build/peers/mlx-lm/bin/python bench/peers/mlx_lm_learned.py METHOD --importance PROFILE.importance.safetensors
        --text wiki.train.head.txt -- --model models/reference --mlx-path OUT [mlx-lm's options of METHOD]

mlx-lm fetches calibration data when it starts: one text of 512-token chunks, or for dwq a chat data set. Here the function that
loads it is replaced, and nothing else. dynamic_quant, gptq and awq get the sequences that `optiq profile` was calibrated
on (kept in its importance file), in a random order as mlx-lm's; dwq gets all of the text, in sequences as long as its
--max-seq-length, of which 32 are held out, as its own loader does. What stands behind -- goes to mlx-lm unchanged.
"""
import argparse
import importlib
import pathlib
import sys

import mlx.core as mx
import mlx.nn as nn
import numpy as np

METHODS = ("dynamic_quant", "dwq", "gptq", "awq")


def calibration_loader(importance: pathlib.Path):
    """load_data of mlx_lm.quant.utils over our profile's sequences."""
    def load_data(tokenizer, num_samples: int, sequence_length: int) -> mx.array:
        tokens = mx.load(str(importance))["calibration.tokens"]
        if tokens.shape[1] != sequence_length:
            raise SystemExit(f"{importance}: sequences of {tokens.shape[1]} tokens, wanted {sequence_length}")
        order = mx.random.permutation(tokens.shape[0])
        return tokens[order[:num_samples] if num_samples > 0 else order]

    return load_data


def distillation_loader(text: pathlib.Path):
    """load_data of mlx_lm.quant.dwq over one text."""
    def load_data(tokenizer, data_path: str, num_samples: int, max_seq_length: int, num_valid_samples: int = 32):
        tokens = tokenizer.encode(text.read_text(encoding="utf-8"))
        sequences = [tokens[i:i + max_seq_length] for i in range(0, len(tokens) - max_seq_length + 1, max_seq_length)]
        order = np.random.permutation(len(sequences)).tolist()
        held_out, rest = order[:num_valid_samples], order[num_valid_samples:][:num_samples]
        print(f"{len(rest)} sequences of {max_seq_length} tokens to train on, {len(held_out)} held out", flush=True)
        return [(sequences[i], 0) for i in rest], [(sequences[i], 0) for i in held_out]

    return load_data


def unpacked(module: nn.Module) -> mx.array:
    """A quantized module's integers [rows, groups, group size], unpacked once; they are never trained."""
    if "_integers" not in module.__dict__:
        ones = mx.ones(module.scales.shape, mx.float32)
        integers = mx.dequantize(module.weight, ones, mx.zeros_like(ones), module.group_size, module.bits)
        module.__dict__["_integers"] = integers.astype(mx.uint8).reshape(*module.scales.shape, module.group_size)
        mx.eval(module.__dict__["_integers"])
    return module.__dict__["_integers"]


def dense_rows(module: nn.Module, rows=slice(None)) -> mx.array:
    """Rows of a quantized module's matrix as a differentiable function of its scales and biases."""
    scales, biases = module.scales[rows], module.biases[rows]
    weight = unpacked(module)[rows].astype(scales.dtype) * scales[..., None] + biases[..., None]
    return weight.flatten(-2, -1)


def use_dense_products() -> None:
    """Computes the products of quantized modules from the dequantized matrix: the same function, and much faster where
    MLX's quantized kernels are slow (CPU, CUDA) and there are many rows."""
    def linear(self, x):
        product = x @ dense_rows(self).T
        return product + self["bias"] if "bias" in self else product

    nn.QuantizedLinear.__call__ = linear
    nn.QuantizedEmbedding.__call__ = lambda self, x: dense_rows(self, x)
    nn.QuantizedEmbedding.as_linear = lambda self, x: x @ dense_rows(self).T


def main() -> None:
    """Replaces the loader and hands over to mlx-lm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--importance", type=pathlib.Path, help="for all but dwq")
    parser.add_argument("--text", type=pathlib.Path, help="for dwq")
    parser.add_argument("--dense-products", action="store_true", help="products of quantized modules by dequantized matrices")
    own, passed = sys.argv[1:], []
    if "--" in own:
        passed = own[own.index("--") + 1:]
        own = own[:own.index("--")]
    options = parser.parse_args(own)
    if (options.text if options.method == "dwq" else options.importance) is None:
        parser.error(f"{options.method} needs {'--text' if options.method == 'dwq' else '--importance'}")
    module = importlib.import_module(f"mlx_lm.quant.{options.method}")
    module.load_data = (distillation_loader(options.text) if options.method == "dwq"
                        else calibration_loader(options.importance))
    if options.dense_products:
        use_dense_products()
    sys.argv = [f"mlx_lm.{options.method}", *passed]
    module.main()


if __name__ == "__main__":
    main()
