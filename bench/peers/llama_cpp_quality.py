#!/usr/bin/env python3
"""KL of llama.cpp's quantized files with importance matrix against the same reference logits as `optiq eval --reference`.

    build/peers/venv-llama/bin/python bench/peers/llama_cpp_quality.py --importance PROFILE.importance.safetensors --text TEXT
        [--types Q4_K_M Q3_K_M Q2_K] [--windows 32] [--results FILE]

The importance matrix (mean squares of every matrix's inputs) is the one that `optiq profile` left beside its profile, so
that both sides saw the same calibration tokens. As llama-imatrix does, the embedding gets none. Windows go to llama.cpp
as token ids. Three figures for each type:

    TYPE                the file as it is, by llama.cpp's own logits (its CPU products round activations to 8 bits)
    TYPE, weights only  the same weights dequantized into an f32 file
    TYPE, no fallback   every tensor that llama.cpp gave a type of blocks of 32, for its columns do not divide by 256, in the
                        K-quant that it was to have had, with blocks that run on over the ends of rows; no such file can be
                        written, it is what K-quants would give on a model of suitable widths
"""
import argparse
import json
import pathlib
import subprocess

import gguf
import numpy as np

import gguf_reference
import k_quants
import kl
import safetensors_files
from gguf_models import gguf_name
from llama_cpp_logits import Logits
from windows import windows

EMBEDDING = "token_embd.weight"


def importance(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Second moments by GGUF name; without the embedding, as llama-imatrix."""
    found = safetensors_files.read_tensors(path, lambda name: name.startswith("model.layers."))
    return {gguf_name(name) + ".weight": np.ascontiguousarray(values, np.float32) for name, values in found.items()}


def without_fallbacks(file: pathlib.Path, source: dict, wanted: dict[str, str], moments: dict) -> tuple[dict, int]:
    """The file's tensors in f32 with `wanted` redone across rows, and the bytes that all of them would take."""
    tensors, size = k_quants.dequantized(file), 0
    for entry in gguf.GGUFReader(file).tensors:
        if entry.name in wanted:
            tensors[entry.name], taken = k_quants.across_rows(source[entry.name], wanted[entry.name], moments.get(entry.name))
            size += taken
        else:
            size += int(entry.n_bytes)
    return tensors, size


def scratch_file(options, tensors: dict) -> pathlib.Path:
    """An f32 file of these tensors, the last one gone."""
    path = options.folder / "scratch.gguf"
    gguf_reference.write_f32(path, options.metadata, tensors)
    return path


def candidates(options, source: dict, moments: dict):
    """Yields {"name", "path", "bytes", "file_bytes"}, each file in place until the next is asked for."""
    dense = options.folder / "F32.gguf"
    gguf_reference.write_f32(dense, options.metadata, source)
    yield {"name": "F32", "path": dense}
    for kind in options.types:
        file = options.folder / f"{kind}.gguf"
        wanted = k_quants.quantize(dense, file, kind, moments)
        if source[EMBEDDING].shape[1] % k_quants.BLOCK != 0:
            wanted[EMBEDDING] = "Q6_K"  # llama.cpp takes Q8_0 here without a word.
        measured = {"bytes": k_quants.tensor_bytes(file), "file_bytes": file.stat().st_size, "fallbacks": len(wanted)}
        yield {"name": kind, "path": file, **measured}
        tensors, size = without_fallbacks(file, source, wanted, moments)
        yield {"name": f"{kind}, no fallback", "path": scratch_file(options, tensors), "bytes": size}
        yield {"name": f"{kind}, weights only", "path": scratch_file(options, k_quants.dequantized(file)), **measured}


def reference_logits(options, number: int, tokens: list[int]) -> np.ndarray:
    """Those of the reference folder by optiq in f32, kept for the next candidate."""
    path = options.folder / f"logits-{number}.safetensors"
    if not path.exists():
        partial = path.with_name("logits.partial.safetensors")
        subprocess.run([options.logits, str(options.model), str(partial), *map(str, tokens)], check=True)
        partial.rename(path)
    return safetensors_files.read_tensors(path)["logits"]


def measure(options, candidate: dict) -> dict:
    """The candidate with its quality over the windows."""
    model = Logits(candidate.pop("path"), options.context, options.threads)
    scores = []
    for number, window in enumerate(windows(options.model, options.text, options.context, options.windows)):
        reference = reference_logits(options, number, window[:-1])
        scores.append(kl.window_scores(reference, model.window(window[:-1]), np.array(window[1:])))
    model.close()
    return candidate | kl.quality([score[0] for score in scores], [score[1] for score in scores])


def main() -> None:
    """Reads the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, default="models/reference", help="full-precision folder")
    parser.add_argument("--metadata", type=pathlib.Path, default="models/reference.gguf", help="GGUF with its tokenizer")
    parser.add_argument("--importance", type=pathlib.Path, required=True)
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--types", nargs="+", default=["Q4_K_M", "Q3_K_M", "Q2_K"])
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1, help="of llama.cpp; more only on a machine that does nothing else")
    parser.add_argument("--logits", default="build/release/tools/optiq_logits")
    parser.add_argument("--folder", type=pathlib.Path, default="build/peers/models/gguf-quality", help="for the files")
    parser.add_argument("--results", type=pathlib.Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((options.model / "config.json").read_text())
    source = gguf_reference.gguf_tensors(safetensors_files.read_folder(options.model), config["num_attention_heads"],
                                         config["num_key_value_heads"])
    found = []
    for candidate in candidates(options, source, importance(options.importance)):
        row = measure(options, candidate)
        print(f"{row['name']}: {row.get('bytes')} bytes, KL {row['kl_mean']:.6f} ± {row['kl_stderr']:.6f}, "
              f"PPL {row['ppl']:.3f} ± {row['ppl_stderr']:.3f}", flush=True)
        found.append(row)
        if options.results:
            options.results.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
