"""The windows of text that `optiq eval --context C --windows N` scores, as token ids."""

import pathlib

from tokenizers import Tokenizer


def windows(model: pathlib.Path, text: pathlib.Path, context: int, count: int) -> list[list[int]]:
    """The first `count` windows of `context` tokens that do not overlap, of the whole text encoded once."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokens = tokenizer.encode(text.read_bytes().decode("utf-8"), add_special_tokens=False).ids
    found = [tokens[i * context:(i + 1) * context] for i in range(min(count, len(tokens) // context))]
    if not found:
        raise SystemExit(f"{text}: {len(tokens)} tokens, fewer than a window of {context}")
    return found
