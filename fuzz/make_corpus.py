#!/usr/bin/env python3
"""Writes the seeds of every fuzz driver: make_corpus.py FOLDER fills FOLDER/NAME from each function seeds_NAME.

A function seeds_NAME() returns {file name: bytes}: small inputs, good ones and bad ones, from which a fuzzer starts.
"""
import bz2
import json
import pathlib
import struct
import sys


def seeds_json():
    texts = {
        "config": '{"model_type":"llama","hidden_size":64,"rope_theta":1e4,"rope_scaling":null,"tie":true,'
                  '"quantization":{"group_size":64,"bits":4,"a.b":{"bits":3,"group_size":32},"c":false}}',
        "index": '{"metadata":{"total_size":8},"weight_map":{"a":"model-00001-of-00002.safetensors"}}',
        "numbers": '[0,-0,1,-1,1.5,-2e-3,1e308,9223372036854775807,9223372036854775808,-9223372036854775808,'
                   '18446744073709551615,18446744073709551616]',
        "huge_number": "1e999",
        "duplicates": '{"a":1,"b":{"a":2,"a":3},"a":null}',
        "strings": '["","\\u0000\\u001b\\ud83d\\ude00","é","\\"\\\\\\/\\b\\f\\n\\r\\t"]',
        "lone_surrogate": '"\\ud800"',
        "deep": "[" * 128 + "]" * 128,
        "too_deep": '{"a":' * 129,
        "trailing": "{} []",
        "nul": "{}\0",
        "empty": "",
    }
    seeds = {name: text.encode() for name, text in texts.items()}
    seeds["not_utf8"] = b'{"\xff":"\xc0\x80"}'
    seeds["byte_order_mark"] = b"\xef\xbb\xbf{}"
    return seeds


def seeds_tasks():
    hellaswag = "Label: a context [title] b\n1\none\ntwo [x]\nthree\n\u00a0four  \u00e9\n"
    return {
        "mmlu": b'question,choice0,choice1,choice2,choice3,answer\n"a ""b"", c?",1,2,3,4,3\r\n\nq,w,x,y,z,A\n',
        "open_quote": b'"a', "behind_quote": b'"a"b,1,2,3,4,0\n', "columns": b"a,b\n", "empty": b"",
        "hellaswag": hellaswag.encode(),
        "hellaswag_packed": bz2.compress(hellaswag.encode()),
        "torn": bz2.compress(hellaswag.encode())[:-9],
    }


def model_config(family="llama", **changes):
    config = {"model_type": family, "vocab_size": 96, "hidden_size": 64, "intermediate_size": 64,
              "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
              "max_position_embeddings": 128, "rope_theta": 1e4, "sliding_window": 8, "tie_word_embeddings": True}
    return json.dumps(config | changes).encode()


def seeds_config():
    scalings = {
        "linear": {"type": "linear", "factor": 2.0},
        "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": 64},
        "yarn": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32, "beta_slow": 1, "truncate": False,
                 "mscale": 1.0, "mscale_all_dim": 0.5, "original_max_position_embeddings": 32},
        "tiny_factor": {"type": "linear", "factor": 1e-300},
        "huge_turns": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 1e308, "beta_slow": 1e308},
    }
    seeds = {name: model_config(rope_scaling=scaling) for name, scaling in scalings.items()}
    quantization = {"group_size": 64, "bits": 4, "mode": "affine", "model.embed_tokens": {"group_size": 32, "bits": 3},
                    "a.b": False, "model.layers.1.mlp.down_proj": True}
    return seeds | {
        "quantized": model_config(quantization=quantization, attention_bias=True, mlp_bias=True),
        "gptq": model_config(quantization_config={"quant_method": "gptq", "bits": 4}),
        "mistral": model_config("mistral", head_dim=32),
        "qwen2": model_config("qwen2", use_sliding_window=True, max_window_layers=-1),
        "qwen3": model_config("qwen3", use_sliding_window=True, layer_types=["full_attention", "sliding_attention"]),
        "phi3": model_config("phi3", partial_rotary_factor=0.5, original_max_position_embeddings=64,
                             rope_scaling={"type": "su", "short_factor": [1, 1, 1, 1], "long_factor": [2, 2, 2, 2]}),
        "rope_parameters": model_config(rope_parameters={"rope_type": "dynamic", "rope_theta": 5e5, "factor": 2.0}),
        "huge": model_config(num_hidden_layers=10**9, vocab_size=2**62),
        "unknown": model_config("mamba"),
        "not_an_object": b"[]",
    }


def safetensors_file(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor_entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def seeds_safetensors():
    two = {"__metadata__": {"format": "mlx"}, "a.weight": tensor_entry("F32", [2, 3], 0, 24),
           "a.bias": tensor_entry("BF16", [2], 24, 28)}
    entry = b'"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'
    return {
        "two": safetensors_file(two, bytes(28)),
        "padded": safetensors_file(json.dumps(two).encode() + b"    ", bytes(28)),
        "scalar_and_empty": safetensors_file(
            {"s": tensor_entry("I64", [], 0, 8), "e": tensor_entry("BOOL", [3, 0], 8, 8)}, bytes(8)),
        "no_tensors": safetensors_file({}),
        "gap": safetensors_file({"w": tensor_entry("U8", [3], 1, 4)}, bytes(4)),
        "overlap": safetensors_file({"v": tensor_entry("U8", [3], 0, 3), "w": tensor_entry("U8", [3], 2, 5)}, bytes(5)),
        "overflow": safetensors_file({"w": tensor_entry("F64", [1 << 31, 1 << 31, 0], 0, 0)}),
        "large_extent": safetensors_file({"w": tensor_entry("U8", [1 << 63], 0, 4)}, bytes(4)),
        "float8": safetensors_file({"w": tensor_entry("F8_E4M3", [4], 0, 4)}, bytes(4)),
        "duplicate": safetensors_file(b"{" + entry + b"," + entry + b"}", bytes(4)),
        "length_zero": safetensors_file(two, bytes(28), length=0),
        "length_huge": safetensors_file(two, bytes(28), length=(1 << 64) - 1),
        "length_past_the_end": safetensors_file(two, length=1000),
        "truncated": safetensors_file(two, bytes(27)),
    }


def seeds_parquet():
    goldens = pathlib.Path(__file__).parent.parent / "tests" / "goldens" / "parquet"
    seeds = {path.stem: path.read_bytes() for path in sorted(goldens.glob("*.parquet"))}
    whole = seeds["text_none_v1"]
    return seeds | {"empty": b"", "magic_only": b"PAR1PAR1", "no_footer": b"PAR1\0\0\0\0PAR1",
                    "long_footer": b"PAR1\xff\xff\xff\x7fPAR1", "cut": whole[:-20] + whole[-8:]}


def gguf_string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def gguf_value(key, kind, payload):
    return gguf_string(key) + struct.pack("<I", kind) + payload


def gguf_array(key, kind, count, payload):
    return gguf_value(key, 9, struct.pack("<IQ", kind, count) + payload)


def gguf_tensor(name, kind, extents, offset):
    return gguf_string(name) + struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, kind, offset)


def gguf_file(values=(), tensors=(), data=b"", version=3, counts=None):
    tensor_count, value_count = counts or (len(tensors), len(values))
    head = b"GGUF" + struct.pack("<IQQ", version, tensor_count, value_count) + b"".join(values) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def tiny_gguf_model():
    """A llama of one layer, hidden size 4, that can be imported."""
    sizes = {"block_count": 1, "context_length": 8, "embedding_length": 4, "feed_forward_length": 4,
             "attention.head_count": 2, "attention.head_count_kv": 1}
    values = [gguf_value("general.architecture", 8, gguf_string("llama"))]
    values += [gguf_value("llama." + key, 4, struct.pack("<I", size)) for key, size in sizes.items()]
    values += [gguf_value("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
               gguf_array("tokenizer.ggml.tokens", 8, 2, gguf_string("a") + gguf_string("b"))]
    shapes = {"token_embd": [4, 2], "blk.0.attn_norm": [4], "blk.0.attn_q": [4, 4], "blk.0.attn_k": [4, 2],
              "blk.0.attn_v": [4, 2], "blk.0.attn_output": [4, 4], "blk.0.ffn_norm": [4], "blk.0.ffn_gate": [4, 4],
              "blk.0.ffn_up": [4, 4], "blk.0.ffn_down": [4, 4], "output_norm": [4], "rope_freqs": [1]}
    tensors = [gguf_tensor(name + ".weight", 0, shape, 64 * i) for i, (name, shape) in enumerate(shapes.items())]
    return gguf_file(values, tensors, struct.pack("<f", 1.0) * 16 * len(shapes))


def gguf_tokenizers():
    """A byte-level tokenizer and a SentencePiece one."""
    def file(model, *values):
        texts = [b"<u>", b"a", b"b", b"ab", b"pad"]
        tokens = b"".join(struct.pack("<Q", len(text)) + text for text in texts)
        return gguf_file([gguf_value("tokenizer.ggml.model", 8, gguf_string(model)),
                          gguf_array("tokenizer.ggml.tokens", 8, 5, tokens),
                          gguf_array("tokenizer.ggml.token_type", 5, 5, struct.pack("<5i", 2, 1, 1, 1, 5)),
                          gguf_value("tokenizer.ggml.bos_token_id", 4, struct.pack("<I", 1)), *values])
    return {"tokenizer_gpt2": file("gpt2", gguf_value("tokenizer.ggml.pre", 8, gguf_string("llama-bpe")),
                                   gguf_array("tokenizer.ggml.merges", 8, 1, gguf_string("a b"))),
            "tokenizer_llama": file("llama", gguf_value("tokenizer.ggml.add_eos_token", 7, b"\1"),
                                    gguf_array("tokenizer.ggml.scores", 6, 5, struct.pack("<5f", 0, -1, -2, -3, 0)))}


def seeds_gguf():
    scalars = [gguf_value(f"k.{kind}", kind, bytes([1]) + bytes(size - 1))
               for kind, size in enumerate([1, 1, 2, 2, 4, 4, 4, 1])]
    scalars += [gguf_value(f"k.{kind}", kind, bytes(8)) for kind in (10, 11, 12)]
    blocks = {0: (1, 4), 1: (1, 2), 30: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
              10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 16: (256, 66)}
    seeds = {f"type_{kind}": gguf_file(tensors=[gguf_tensor("t", kind, [elements, 1], 0)], data=bytes(range(size)))
             for kind, (elements, size) in blocks.items()}
    one = [gguf_tensor("t", 0, [2], 0)]
    return seeds | gguf_tokenizers() | {
        "model": tiny_gguf_model(),
        "scalars": gguf_file(scalars),
        "arrays": gguf_file([gguf_array("s", 8, 2, gguf_string("") + gguf_string("é")),
                             gguf_array("f", 6, 2, struct.pack("<ff", 0.1, 2)), gguf_array("b", 7, 2, b"\1\0")]),
        "nested": gguf_file([gguf_array("n", 9, 1, struct.pack("<IQ", 4, 0))]),
        "alignment": gguf_file([gguf_value("general.alignment", 4, struct.pack("<I", 8))], one, bytes(16)),
        "alignment_zero": gguf_file([gguf_value("general.alignment", 4, bytes(4))], one, bytes(8)),
        "version_2": gguf_file(tensors=one, data=bytes(8), version=2),
        "big_endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
        "counts_huge": gguf_file(counts=(1 << 63, 1 << 63)),
        "array_huge": gguf_file([gguf_array("a", 8, 1 << 61, b"")]),
        "string_huge": gguf_file([gguf_value("s", 8, struct.pack("<Q", (1 << 64) - 1))]),
        "extents_huge": gguf_file(tensors=[gguf_tensor("t", 0, [1 << 31, 1 << 31, 4], 0)]),
        "offset_huge": gguf_file(tensors=[gguf_tensor("t", 0, [2], (1 << 64) - 32)], data=bytes(8)),
        "overlap": gguf_file(tensors=[gguf_tensor("t", 0, [16], 0), gguf_tensor("u", 0, [1], 32)], data=bytes(64)),
        "duplicate": gguf_file(tensors=one + one, data=bytes(8)),
        "truncated": gguf_file(tensors=one, data=bytes(7)),
    }


def seeds_plan():
    model = {"name": "m", "family": "llama", "parameters": 8256, "dtype": "BF16", "layers": 1, "kv_heads": 1,
             "head_dim": 64}
    fixed = [{"name": "norm.weight", "dtype": "BF16", "shape": [64]}]
    module = {"name": "lm_head", "out_features": 128, "in_features": 64, "layer": -1}
    options = [{"bits": bits, "group_size": 64, "cost": 4.0 ** -bits, "standard_error": 0.001, "projections": [0.5, -bits]}
               for bits in (2, 4)]
    sensitivity = {"format": "optiq-sensitivity", "version": 1, "model": model, "estimator": "fisher", "encoder": "rtn",
                   "calibration": {"source": "self", "sequences": 2, "tokens": 8, "seed": 1, "label_draws": 1},
                   "half_split_spearman": 0.5, "projection_scale": 0.0625, "fixed": fixed,
                   "modules": [module | {"options": options}]}
    kl = sensitivity | {"estimator": "kl", "modules": [module | {"options": [
        {"bits": 8, "group_size": 32, "cost": -1e-9, "standard_error": 0}]}]}
    plan = {"format": "optiq-plan", "version": 1, "model": model, "budget_bytes": 0, "bytes": 5080,
            "bits_per_weight": 5080 * 8 / 8256, "predicted_kl": 0.1, "predicted_kl_standard_error": 0.01, "gap": 0,
            "seconds": 0.5, "memory": {"context_tokens": 1, "weight_bytes": 1, "cache_bytes": 1, "scratch_bytes": 1},
            "modules": [module | {"bits": 4, "group_size": 64, "encoder": "rtn", "bytes": 4608, "cost": 0.1}],
            "fixed": fixed}
    entry = {"out_features": 128, "in_features": 64, "bits": 4, "group_size": 64, "seconds": 1e-6, "spread_seconds": 0}
    latency = {"format": "optiq-latency", "version": 1, "machine": {"cpu": "x", "isa": "avx2", "threads": 2},
               "fixed_seconds": 1e-5, "entries": [entry, entry | {"bits": 16, "group_size": 0}]}
    priced = sensitivity | {"kv": {"version": 1, "blocks": [{"keys": options[1:], "values": [options[1] | {"bits": 3}] + options[1:]}]}}
    # 192 tokens packed in one page, 128 that may wait.
    cached = plan | {"memory": plan["memory"] | {"context_tokens": 300, "cache_bytes": 74752},
                     "kv": {"version": 1, "cost": 0.1, "predicted_kl": 0.1, "predicted_kl_standard_error": 0.01,
                            "blocks": [{"keys": 4, "values": 16}]}}
    limited = plan | {"latency": {"seconds_per_token": 0.01, "limit_seconds": 0.02}}
    wide = json.loads(json.dumps(sensitivity))
    wide["modules"][0] |= {"out_features": 1 << 47, "in_features": 1 << 47}
    seeds = {"priced": priced, "cached": cached, "sensitivity": sensitivity, "kl": kl, "plan": plan, "wide": wide, "empty": {},
             "latency": latency, "latency_tiny": latency | {"entries": [entry | {"seconds": 5e-324}]},
             "latency_twice": latency | {"entries": [entry, entry]}, "limited": limited,
             "huge_float": sensitivity | {"projection_scale": 1e308}, "no_modules": plan | {"modules": []}}
    return {name: json.dumps(seed).encode() for name, seed in seeds.items()}


def main(folder):
    for function in [name for name in globals() if name.startswith("seeds_")]:
        target = folder / function.removeprefix("seeds_")
        target.mkdir(parents=True, exist_ok=True)
        for name, data in globals()[function]().items():
            (target / name).write_bytes(data)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
