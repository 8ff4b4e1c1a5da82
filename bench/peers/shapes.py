"""The two model shapes of the CPU speed benchmark, and the places their files are kept.

The numbers are those of Llama-3.2-1B and Llama-3-8B. Weights are random: speed does not depend on their values, and
no peer needs a download.
"""

import dataclasses
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "build" / "peers" / "models"

VOCABULARY = 128256
BOS, EOS = 128000, 128001
CONTEXT = 8192


@dataclasses.dataclass(frozen=True)
class Shape:
    """One Llama shape; every count is a number of elements."""

    name: str
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool

    @property
    def q_rows(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_rows(self) -> int:
        return self.kv_heads * self.head_dim

    def projections(self) -> dict[str, tuple[int, int]]:
        """The seven linear modules of a layer: the name within the layer, and (rows out, columns in)."""
        return {
            "self_attn.q_proj": (self.q_rows, self.hidden),
            "self_attn.k_proj": (self.kv_rows, self.hidden),
            "self_attn.v_proj": (self.kv_rows, self.hidden),
            "self_attn.o_proj": (self.hidden, self.q_rows),
            "mlp.gate_proj": (self.ffn, self.hidden),
            "mlp.up_proj": (self.ffn, self.hidden),
            "mlp.down_proj": (self.hidden, self.ffn),
        }

    def modules(self) -> dict[str, tuple[int, int]]:
        """Every quantizable module under its transformers name, the layers first; (rows out, columns in)."""
        found = {}
        for layer in range(self.layers):
            for name, size in self.projections().items():
                found[f"model.layers.{layer}.{name}"] = size
        found["model.embed_tokens"] = (VOCABULARY, self.hidden)
        if not self.tied:
            found["lm_head"] = (VOCABULARY, self.hidden)
        return found

    def norms(self) -> list[str]:
        """The names of the norm weights, each of `hidden` elements."""
        found = ["model.norm.weight"]
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            found += [f"{prefix}.input_layernorm.weight", f"{prefix}.post_attention_layernorm.weight"]
        return found

    def config(self) -> dict:
        """config.json as transformers writes it for this shape."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.ffn,
            "max_position_embeddings": CONTEXT,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "rope_theta": 500000.0,
            "tie_word_embeddings": self.tied,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "vocab_size": VOCABULARY,
        }


SHAPES = {
    "1b": Shape("1b", 2048, 8192, 16, 32, 8, 64, True),
    "8b": Shape("8b", 4096, 14336, 32, 32, 8, 128, False),
}
