"""Writes OpenVINO models: a random transformers Llama, exported by optimum-intel, its weights compressed by NNCF."""

import pathlib
import shutil

import openvino
import openvino_tokenizers
import torch
import transformers
from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

import tokenizer_files
from shapes import Shape

# The layers' widths; NNCF keeps the embedding (which is the output layer too, where tied) in 8 bits, as by default.
KINDS = {
    "sym-g128": {"bits": 4, "sym": True, "group_size": 128, "ratio": 1.0},
    "asym-g128": {"bits": 4, "sym": False, "group_size": 128, "ratio": 1.0},
    "asym-g64": {"bits": 4, "sym": False, "group_size": 64, "ratio": 1.0},
    "int8": {"bits": 8, "sym": False},
}


def write_torch(folder: pathlib.Path, shape: Shape) -> None:
    """Saves a transformers model of random weights N(0, 0.02) in bf16, as its initialization makes them."""
    torch.manual_seed(3)
    values = {key: value for key, value in shape.config().items() if key not in ("architectures", "torch_dtype")}
    config = transformers.LlamaConfig(**values)
    config.dtype = torch.bfloat16
    torch.set_default_dtype(torch.bfloat16)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    tokenizer_files.write(folder)


def write_tokenizer(folder: pathlib.Path) -> None:
    """Writes the tokenizer's files, and as the two OpenVINO models that OpenVINO GenAI wants."""
    tokenizer_files.write(folder)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    models = openvino_tokenizers.convert_tokenizer(tokenizer, with_detokenizer=True)
    for name, model in zip(("openvino_tokenizer", "openvino_detokenizer"), models):
        openvino.save_model(model, folder / f"{name}.xml")


def export(source: pathlib.Path, target: pathlib.Path, kind: str) -> None:
    """Exports with a stateful KV cache, and compresses the weights without calibration data."""
    quantization = OVWeightQuantizationConfig(**KINDS[kind])
    model = OVModelForCausalLM.from_pretrained(source, export=True, compile=False, stateful=True,
                                               quantization_config=quantization)
    model.save_pretrained(target)
    write_tokenizer(target)


def write_openvino(models: pathlib.Path, shape: Shape, kinds: list[str]) -> None:
    """Writes the missing models of `kinds`; the transformers model is removed at the end."""
    targets = {kind: models / f"llama-{shape.name}-openvino-{kind}" for kind in kinds}
    missing = {kind: target for kind, target in targets.items() if not target.exists()}
    if not missing:
        return
    source = models / f"llama-{shape.name}-torch.partial"
    shutil.rmtree(source, ignore_errors=True)
    write_torch(source, shape)
    for kind, target in missing.items():
        partial = target.with_name(target.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        export(source, partial, kind)
        partial.rename(target)
        print(f"wrote {target}", flush=True)
    shutil.rmtree(source)
