"""A synthetic tokenizer of the models' vocabulary: byte-level BPE without merges, so each byte is one token."""

import json
import pathlib

from shapes import BOS, EOS, VOCABULARY


def byte_characters() -> list[str]:
    """The 256 printable characters by which GPT-2's byte-level BPE writes the bytes, in order of the byte."""
    kept = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in kept else chr(next(spare)) for byte in range(256)]


def tokens() -> list[str]:
    """All tokens in order of id: the bytes, then fillers that no text reaches, then the two special ones in place."""
    found = byte_characters() + [f"filler{index}" for index in range(256, VOCABULARY)]
    found[BOS], found[EOS] = "<|begin_of_text|>", "<|end_of_text|>"
    return found


def special(index: int, content: str) -> dict:
    """An entry of tokenizer.json's added_tokens."""
    return {"id": index, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True}


def tokenizer_json() -> dict:
    """The whole of tokenizer.json."""
    names = tokens()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special(index, names[index]) for index in (BOS, EOS)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {name: index for index, name in enumerate(names)}, "merges": []},
    }


def tokenizer_config() -> dict:
    """The whole of tokenizer_config.json."""
    return {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>",
            "eos_token": "<|end_of_text|>", "clean_up_tokenization_spaces": False, "model_max_length": 8192,
            "model_input_names": ["input_ids", "attention_mask"]}


def write(folder: pathlib.Path) -> None:
    """Writes the tokenizer's files into a checkpoint's folder."""
    for name, content in (("tokenizer.json", tokenizer_json()), ("tokenizer_config.json", tokenizer_config())):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
