"""Writes a Hugging Face folder of the Llama family as an f32 GGUF, with another GGUF's metadata (sizes, tokenizer)."""

import pathlib

import gguf
import numpy as np

import safetensors_files
from gguf_models import gguf_name

# The writer states these itself.
OWN_KEYS = {"general.architecture", "general.file_type", "general.quantization_version"}


def copy_metadata(writer: gguf.GGUFWriter, source: gguf.GGUFReader) -> None:
    """Every key of the other file but the ones that speak of its own tensors."""
    for name, field in source.fields.items():
        if name.startswith("GGUF.") or name in OWN_KEYS:
            continue
        kind = field.types[0]
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=element)


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k from transformers' order (halves of a head) to GGUF's (pairs), as llama.cpp's converter does."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def gguf_tensors(tensors: dict[str, np.ndarray], heads: int, kv_heads: int) -> dict[str, np.ndarray]:
    """Tensors of a transformers checkpoint by GGUF's names, in its row order, f32."""
    renamed = {}
    for name, values in tensors.items():
        values = np.ascontiguousarray(values, np.float32)
        if name.endswith("q_proj.weight"):
            values = interleave(values, heads)
        if name.endswith("k_proj.weight"):
            values = interleave(values, kv_heads)
        plain = name.removesuffix(".weight")
        renamed[gguf_name(name) if "norm" in name else gguf_name(plain) + ".weight"] = values
    return renamed


def write_f32(target: pathlib.Path, metadata: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
    """A GGUF of these f32 tensors; appears whole or not at all."""
    partial = target.with_name(target.name + ".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    copy_metadata(writer, gguf.GGUFReader(metadata))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(target)
