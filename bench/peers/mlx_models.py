"""Writes MLX checkpoints of random quantized weights: the packed words are random bits, so every code is uniform."""

import json
import pathlib
import shutil
import struct

import numpy as np

import tokenizer_files
from shapes import BOS, EOS, Shape

GROUP = 64
SHARD_BYTES = 5 << 30
MIXED_BITS = (2, 3, 4, 5, 6, 8)
SPAN = 0.06  # Codes span [-SPAN/2, SPAN/2]: a standard deviation of 0.017, as a trained layer's.
ITEM_BYTES = {"U32": 4, "BF16": 2}


def module_bits(shape: Shape, bits: int | None) -> dict[str, int]:
    """The width of each module: `bits`, or for None the six widths in turn (7 projections: each meets each width)."""
    return {name: bits or MIXED_BITS[index % len(MIXED_BITS)] for index, name in enumerate(shape.modules())}


def tensor_specs(shape: Shape, widths: dict[str, int]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every tensor of the checkpoint in file order: its dtype and shape."""
    specs = {}
    for name, (rows, columns) in shape.modules().items():
        specs[f"{name}.weight"] = ("U32", (rows, columns * widths[name] // 32))
        specs[f"{name}.scales"] = ("BF16", (rows, columns // GROUP))
        specs[f"{name}.biases"] = ("BF16", (rows, columns // GROUP))
    for name in shape.norms():
        specs[name] = ("BF16", (shape.hidden,))
    return specs


def spec_bytes(spec: tuple[str, tuple[int, ...]]) -> int:
    return ITEM_BYTES[spec[0]] * int(np.prod(spec[1]))


def bfloat16(values: np.ndarray) -> np.ndarray:
    """f32 to bf16 bits, rounded half up in magnitude (enough for random values)."""
    return ((values.astype(np.float32).view(np.uint32) + 0x8000) >> 16).astype(np.uint16)


def tensor_data(name: str, spec: tuple[str, tuple[int, ...]], bits: int, random: np.random.Generator) -> bytes:
    """The bytes of one tensor; `bits` is its module's width (0 for a norm)."""
    dtype, size = spec
    if dtype == "U32":
        return random.bytes(spec_bytes(spec))
    if bits == 0:
        return bfloat16(np.ones(size)).tobytes()
    jitter = 1 + 0.1 * (random.random(size, np.float32) - 0.5)
    base = SPAN / (2**bits - 1) if name.endswith(".scales") else -SPAN / 2
    return bfloat16(base * jitter).tobytes()


def split(specs: dict) -> list[dict]:
    """Cuts the tensors into shards of at most SHARD_BYTES, in order."""
    shards, used = [{}], 0
    for name, spec in specs.items():
        if used + spec_bytes(spec) > SHARD_BYTES:
            shards.append({})
            used = 0
        shards[-1][name] = spec
        used += spec_bytes(spec)
    return shards


def header(specs: dict) -> bytes:
    """A safetensors header, padded so that the data starts at a multiple of 64 bytes."""
    entries, offset = {"__metadata__": {"format": "mlx"}}, 0
    for name, spec in specs.items():
        end = offset + spec_bytes(spec)
        entries[name] = {"dtype": spec[0], "shape": list(spec[1]), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return struct.pack("<Q", len(text)) + text


def write_shards(folder: pathlib.Path, shape: Shape, widths: dict[str, int]) -> None:
    """Writes the tensors and the index."""
    random = np.random.Generator(np.random.SFC64(1))
    specs = tensor_specs(shape, widths)
    shards, weight_map = split(specs), {}
    for number, shard in enumerate(shards, 1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        with open(folder / file_name, "wb") as file:
            file.write(header(shard))
            for name, spec in shard.items():
                file.write(tensor_data(name, spec, widths.get(name.rpartition(".")[0], 0), random))
                weight_map[name] = file_name
    parameters = sum(rows * columns for rows, columns in shape.modules().values()) + shape.hidden * len(shape.norms())
    index = {"metadata": {"total_size": sum(map(spec_bytes, specs.values())), "total_parameters": parameters},
             "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def write_config(folder: pathlib.Path, shape: Shape, widths: dict[str, int], bits: int) -> None:
    """Writes config.json, whose quantization lists every module, and generation_config.json."""
    quantization = {"group_size": GROUP, "bits": bits, "mode": "affine"}
    quantization |= {name: {"group_size": GROUP, "bits": width} for name, width in widths.items()}
    config = shape.config() | {"quantization": quantization, "quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": BOS, "eos_token_id": EOS}))


def write_mlx(models: pathlib.Path, shape: Shape, bits: int | None) -> None:
    """Writes one checkpoint (bits None: the mixed one) unless it is there; a half-written one is never left."""
    folder = models / (f"llama-{shape.name}-{bits}bit-g{GROUP}" if bits else f"llama-{shape.name}-mixed")
    if folder.exists():
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    widths = module_bits(shape, bits)
    write_shards(partial, shape, widths)
    write_config(partial, shape, widths, bits or 4)
    tokenizer_files.write(partial)
    partial.rename(folder)
    print(f"wrote {folder}", flush=True)
