#!/usr/bin/env python3
"""Writes tests/goldens/models/: tiny random decoders of every family and RoPE kind, with transformers' logits.

usage: make_model_goldens.py [OUT]      needs: torch, transformers, safetensors (versions go to manifest.json)

Each OUT/NAME/ is a checkpoint folder (config.json as transformers saves it, or in the older spelling where `legacy`
says so; model.safetensors in bfloat16) and golden.safetensors: tokens i32 [2, T], logits f32 [2, T, vocabulary],
computed in float32 from the stored bfloat16 weights. Everything is seeded: running it again changes no byte.
"""
import hashlib
import json
import pathlib
import sys

import safetensors.torch
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
COMMON = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, attn_implementation="eager",
              bos_token_id=None, eos_token_id=None, pad_token_id=None)
ONE_WIDE_LAYER = dict(num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)  # head_dim 16


def rope(kind: str, **settings) -> dict:
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=10000.0, **settings), **ONE_WIDE_LAYER)


LONGROPE = dict(original_max_position_embeddings=24, **rope(
    "longrope", partial_rotary_factor=0.5, short_factor=[1.0, 1.1, 1.25, 1.5], long_factor=[2.0, 2.5, 4.0, 8.0]))

# name: (family, tokens, settings). The sequences are longer than every sliding window.
MODELS = {
    "llama": ("Llama", 20, dict()),
    "llama-tied-biased": ("Llama", 20, dict(hidden_size=64, vocab_size=96, tie_word_embeddings=True,
                                            attention_bias=True, mlp_bias=True)),
    "llama-rope-linear": ("Llama", 20, rope("linear", factor=4.0)),
    "llama-rope-dynamic": ("Llama", 20, rope("dynamic", factor=2.0)),
    "llama-rope-llama3": ("Llama", 80, rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                            original_max_position_embeddings=64)),
    "llama-rope-yarn": ("Llama", 20, rope("yarn", factor=4.0, original_max_position_embeddings=32)),
    "mistral-window": ("Mistral", 20, dict(sliding_window=7)),
    "qwen2-tied": ("Qwen2", 20, dict(tie_word_embeddings=True, use_sliding_window=False, sliding_window=4)),
    "qwen2-window": ("Qwen2", 20, dict(use_sliding_window=True, sliding_window=5, max_window_layers=1)),
    "qwen3": ("Qwen3", 20, dict(head_dim=16)),
    "phi3-window": ("Phi3", 20, dict(sliding_window=6)),
    "phi3-longrope-short": ("Phi3", 20, LONGROPE),
    "phi3-longrope-long": ("Phi3", 40, LONGROPE),
}
# These folders keep `rope_theta` at the top level and the rest in `rope_scaling` under "type", as older checkpoints do.
LEGACY = {"llama-rope-llama3", "llama-rope-linear", "phi3-longrope-short"}


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Weights wide enough that attention is far from uniform; biases and norms that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                value = 1 + 0.3 * noise
            elif name.endswith("bias"):
                value = 0.3 * noise
            else:
                value = noise * (1.5 / parameter.shape[-1] ** 0.5)
            parameter.copy_(value.to(torch.bfloat16).to(torch.float32))


def to_legacy(config: dict) -> dict:
    rope = dict(config.pop("rope_parameters"))
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in rope:
            config[key] = rope.pop(key)
    rope["type"] = rope.pop("rope_type")
    config["rope_scaling"] = rope
    return config


def write_model(out: pathlib.Path, name: str, seed: int) -> None:
    family, length, settings = MODELS[name]
    config = getattr(transformers, family + "Config")(**{**COMMON, **settings})
    model = getattr(transformers, family + "ForCausalLM")(config).eval().to(torch.float32)
    randomise(model, seed)
    tokens = torch.randint(0, config.vocab_size, (2, length), generator=torch.Generator().manual_seed(seed + 1))
    with torch.no_grad():
        logits = model(tokens).logits.contiguous()
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.to(torch.bfloat16).contiguous() for key, value in model.state_dict().items()
               if not (config.tie_word_embeddings and key == "lm_head.weight")}
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    safetensors.torch.save_file({"tokens": tokens.to(torch.int32), "logits": logits}, folder / "golden.safetensors")
    saved = config.to_dict()
    if name in LEGACY:
        saved = to_legacy(saved)
    (folder / "config.json").write_text(json.dumps(saved, indent=1, sort_keys=True) + "\n")


def write_manifest(out: pathlib.Path) -> None:
    files = {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
             for path in sorted(out.glob("*/*"))}
    manifest = {"script": pathlib.Path(__file__).name, "torch": torch.__version__,
                "transformers": transformers.__version__, "sha256": files}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def main() -> None:
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "models"
    torch.set_num_threads(1)
    for seed, name in enumerate(MODELS):
        write_model(out, name, 100 * (seed + 1))
    write_manifest(out)


if __name__ == "__main__":
    main()
