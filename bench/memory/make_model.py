#!/usr/bin/env python3
"""Makes a Llama checkpoint of random bf16 weights: a shape's memory and time without its download.

    make_model.py OUT --shape 8b                      # Llama-3-8B: 16 GB in one file
    make_model.py OUT --shape small --blocks 64 --shard-bytes 500000000

Weights have random signs and magnitudes between 2^-7 and 2^-5, about what a row of 4096 inputs has in a trained model; norms
are 1. The tokenizer knows printable ASCII characters. Standard library only.
"""
import argparse
import json
import pathlib
import random
import struct

SHAPES = {  # hidden, intermediate, heads, kv heads, head_dim, vocabulary, tied embeddings, blocks
    "tiny": (256, 768, 4, 2, 64, 2048, True, 8),
    "small": (1024, 2816, 16, 4, 64, 8192, False, 16),
    "1b": (2048, 8192, 32, 8, 64, 128256, True, 16),
    "8b": (4096, 14336, 32, 8, 128, 128256, False, 32),
}
POOL_BYTES = 64 << 20


def make_pool() -> memoryview:
    """Random bf16 values, little-endian; tensors are cut out of it at different places."""
    source = random.Random(1)
    exponents = bytes(0x3C | (byte & 0x80) for byte in range(256))
    pool = bytearray(POOL_BYTES)
    pool[0::2] = source.randbytes(POOL_BYTES // 2)
    pool[1::2] = source.randbytes(POOL_BYTES // 2).translate(exponents)
    return memoryview(bytes(pool))


def tensors_of(shape: str, blocks: int) -> list[tuple[str, list[int]]]:
    hidden, wide, heads, kv_heads, width, vocabulary, tied, _ = SHAPES[shape]
    tensors = [("model.embed_tokens.weight", [vocabulary, hidden])]
    for block in range(blocks):
        prefix = f"model.layers.{block}."
        tensors += [(prefix + "input_layernorm.weight", [hidden]),
                    (prefix + "self_attn.q_proj.weight", [heads * width, hidden]),
                    (prefix + "self_attn.k_proj.weight", [kv_heads * width, hidden]),
                    (prefix + "self_attn.v_proj.weight", [kv_heads * width, hidden]),
                    (prefix + "self_attn.o_proj.weight", [hidden, heads * width]),
                    (prefix + "post_attention_layernorm.weight", [hidden]),
                    (prefix + "mlp.gate_proj.weight", [wide, hidden]),
                    (prefix + "mlp.up_proj.weight", [wide, hidden]),
                    (prefix + "mlp.down_proj.weight", [hidden, wide])]
    tensors.append(("model.norm.weight", [hidden]))
    if not tied:
        tensors.append(("lm_head.weight", [vocabulary, hidden]))
    return tensors


def bytes_of(extents: list[int]) -> int:
    size = 2
    for extent in extents:
        size *= extent
    return size


def shards_of(tensors: list, shard_bytes: int) -> list[list]:
    shards, filled = [[]], 0
    for name, extents in tensors:
        if shards[-1] and filled + bytes_of(extents) > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((name, extents))
        filled += bytes_of(extents)
    return shards


def write_shard(path: pathlib.Path, tensors: list, pool: memoryview, offsets: random.Random) -> None:
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, extents in tensors:
        header[name] = {"dtype": "BF16", "shape": extents, "data_offsets": [end, end + bytes_of(extents)]}
        end += bytes_of(extents)
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, extents in tensors:
            left = bytes_of(extents)
            if name.endswith("norm.weight"):
                file.write(b"\x80\x3f" * (left // 2))
                continue
            while left > 0:
                begin = offsets.randrange(0, POOL_BYTES // 2, 2)
                piece = min(left, POOL_BYTES - begin)
                file.write(pool[begin:begin + piece])
                left -= piece


def write_config(folder: pathlib.Path, shape: str, blocks: int) -> None:
    hidden, wide, heads, kv_heads, width, vocabulary, tied, _ = SHAPES[shape]
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": hidden,
              "intermediate_size": wide, "num_hidden_layers": blocks, "num_attention_heads": heads,
              "num_key_value_heads": kv_heads, "head_dim": width, "vocab_size": vocabulary, "rms_norm_eps": 1e-05,
              "rope_theta": 500000.0, "max_position_embeddings": 8192, "tie_word_embeddings": tied,
              "hidden_act": "silu", "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def write_tokenizer(folder: pathlib.Path, vocabulary: int) -> None:
    characters = ["\u0120"] + [chr(code) for code in range(33, 127)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    end = {"id": vocabulary - 1, "content": "<|end|>", "special": True, "single_word": False, "lstrip": False,
           "rstrip": False, "normalized": False}
    model = {"type": "BPE", "vocab": {text: token for token, text in enumerate(characters)}, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps(
        {"version": "1.0", "added_tokens": [end], "pre_tokenizer": byte_level, "decoder": byte_level, "normalizer": None,
         "post_processor": None, "truncation": None, "padding": None, "model": model}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))


def write_model(folder: pathlib.Path, shape: str, blocks: int = 0, shard_bytes: int = 0) -> pathlib.Path:
    """0 blocks: as many as the shape has; 0 shard_bytes: one file."""
    blocks = blocks or SHAPES[shape][-1]
    folder.mkdir(parents=True, exist_ok=True)
    tensors = tensors_of(shape, blocks)
    shards = shards_of(tensors, shard_bytes or sum(bytes_of(extents) for _, extents in tensors))
    pool, offsets, weight_map = make_pool(), random.Random(2), {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_shard(folder / name, shard, pool, offsets)
        weight_map.update({tensor: name for tensor, _ in shard})
    if len(shards) > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    write_config(folder, shape, blocks)
    write_tokenizer(folder, SHAPES[shape][5])
    return folder


def write_text(path: pathlib.Path, characters: int = 200_000) -> pathlib.Path:
    source = random.Random(3)
    path.write_text("".join(source.choices("abcdefghijklmnopqrstuvwxyz    ", k=characters)))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--blocks", type=int, default=0)
    parser.add_argument("--shard-bytes", type=int, default=0)
    args = parser.parse_args()
    write_model(args.out, args.shape, args.blocks, args.shard_bytes)


if __name__ == "__main__":
    main()
