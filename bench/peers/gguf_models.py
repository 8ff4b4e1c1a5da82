"""Writes GGUF files: random f16 weights, then llama.cpp's own quantizer, so that the mix of types is llama.cpp's."""

import ctypes
import pathlib

import gguf
import llama_cpp
import numpy as np

import tokenizer_files
from shapes import BOS, CONTEXT, EOS, VOCABULARY, Shape

POOL = 1 << 24  # Normal values drawn once; every tensor is cut from them at a random place.
DEVIATION = 0.02
LAYER_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
}
TOP_NAMES = {"model.embed_tokens": "token_embd", "lm_head": "output", "model.norm.weight": "output_norm.weight"}


def gguf_name(name: str) -> str:
    """The GGUF name of a module or a norm weight of transformers."""
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[rest]}"


def add_metadata(writer: gguf.GGUFWriter, shape: Shape) -> None:
    """Adds the model's and the tokenizer's keys."""
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(llama_cpp.LLAMA_FTYPE_MOSTLY_F16)
    kinds = [gguf.TokenType.CONTROL if index in (BOS, EOS) else gguf.TokenType.NORMAL for index in range(VOCABULARY)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokenizer_files.tokens())
    writer.add_token_types(kinds)
    writer.add_token_merges(["Ġ Ġ"])  # The key is mandatory; its result is no token, so it never applies.
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)


def write_f16(path: pathlib.Path, shape: Shape) -> None:
    """Writes the model in f16 (norms in f32, all ones), one tensor in memory at a time."""
    random = np.random.Generator(np.random.SFC64(2))
    pool = (DEVIATION * random.standard_normal(POOL, np.float32)).astype(np.float16)
    writer = gguf.GGUFWriter(path, "llama")
    add_metadata(writer, shape)
    for name, size in shape.modules().items():
        writer.add_tensor_info(gguf_name(name) + ".weight", size, np.dtype(np.float16), 2 * size[0] * size[1])
    for name in shape.norms():
        writer.add_tensor_info(gguf_name(name), (shape.hidden,), np.dtype(np.float32), 4 * shape.hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for size in shape.modules().values():
        start = int(random.integers(POOL))
        writer.write_tensor_data(np.resize(np.roll(pool, start), size))
    for _ in shape.norms():
        writer.write_tensor_data(np.ones(shape.hidden, np.float32))
    writer.close()


def quantize(source: pathlib.Path, target: pathlib.Path, kind: str, threads: int) -> None:
    """Runs llama.cpp's quantizer, as its llama-quantize does without an importance matrix."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    parameters.nthread = threads
    if llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(parameters)) != 0:
        raise SystemExit(f"llama_model_quantize failed: {target}")


def write_gguf(models: pathlib.Path, shape: Shape, kinds: list[str], threads: int) -> None:
    """Writes the missing files of `kinds`; the f16 source is removed at the end."""
    targets = {kind: models / f"llama-{shape.name}-{kind}.gguf" for kind in kinds}
    missing = {kind: target for kind, target in targets.items() if not target.exists()}
    if not missing:
        return
    source = models / f"llama-{shape.name}-F16.gguf.partial"
    write_f16(source, shape)
    print(f"wrote {source}", flush=True)
    llama_cpp.llama_backend_init()
    for kind, target in missing.items():
        partial = target.with_name(target.name + ".partial")
        quantize(source, partial, kind, threads)
        partial.rename(target)
        print(f"wrote {target}", flush=True)
    source.unlink()
