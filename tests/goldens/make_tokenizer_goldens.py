#!/usr/bin/env python3
"""Makes tests/goldens/tokenizer: tiny tokenizers, and what `tokenizers` and `transformers` do with them.

usage: make_tokenizer_goldens.py SMOLLM2_FOLDER [SMOLLM2_GGUF]
Needs the packages tokenizers 0.23.2, transformers, jinja2, sentencepiece and (for SMOLLM2_GGUF) gguf.
Files: <name>/ a tokenizer's files; <name>.json and smollm2.json its encodings; gguf_*.json the metadata that a
GGUF of it would hold, with encodings; chat.json templates, messages and renderings.
"""
import io
import json
import pathlib
import random
import sys

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.convert_slow_tokenizer import generate_merges
from transformers.utils.chat_template_utils import render_jinja_template

from chat_cases import CASES

OUT = pathlib.Path(__file__).parent / "tokenizer"

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind: it's used to it.",
    "Quantization maps weights to integers; the integers are packed 4 bits at a time into 32-bit words.",
    "In 2024 we measured 128 models, 4096 tokens each, at 3.5 bits per weight. They'll run on 8 GB!",
    "def encode(text):\n    return [token for token in tokenize(text) if token != '<pad>']\n",
    "Größe, naïve, façade, Ærøskøbing, Łódź, İstanbul, Ελληνικά, Русский язык, עברית, العربية.",
    "你好，世界。机器学习是人工智能的一个分支。東京は日本の首都です。한국어 문장입니다.",
    "\U0001f600 \U0001f680\U0001f680 \U0001f468\u200d\U0001f469\u200d\U0001f467 emoji are four bytes each, flags \U0001f1e9\U0001f1ea are eight.",
] * 8

TEXTS = [
    "",
    " ",
    "a",
    "Hello, world!",
    " leading space and trailing space ",
    "  two   three    four     spaces",
    "tabs\t\tand\nnewlines\n\n\nand\r\nreturns\r",
    "don't I'LL we've THEY'RE it's 'sup",
    "12345 3.14159 1,000,000 ½ ² ٣ Ⅷ 1st",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f1e9\U0001f1ea\u2764\ufe0f",
    "你好世界 機械学習 한국어 ไทย हिन्दी",
    "e\u0301 vs \u00e9, a\u0308\u0323 Z\u0351\u036b\u0343 \u1e9b\u0323",
    "\u0000\u0001\u0007\u001b[31m\u007f\u0080\u009f",
    "zero\u200bwidth \u200f\u202eright to left\u202c \ufeff bom \u00a0nbsp\u3000ideographic",
    "\U0010ffff\ufffd\ufffe\ue000",
    "x" * 3000,
    "ab" * 1500 + " " + "é" * 500,
    " " * 200 + "end",
    "\n" * 100,
    "<s>not special?</s> <|im_start|>user\nhi<|im_end|><|endoftext|>",
    "<0x41><0x0A>", "▁already▁marked", "Ġ letters Ċ of byte level",
    "if (a<b && c>=d) { x |= ~y ^ 0xFF; } // https://example.com/?q=1&r=%20",
    "CamelCaseWords and UPPERlower, ÀÉÎ ßẞ",
]


def random_texts(seed: int, count: int) -> list[str]:
    source = random.Random(seed)
    letters = "".join(CORPUS) + "  \n\t'0123456789\u0301\u200d"
    strange = lambda: chr(source.choice([source.randrange(1, 0x300), source.randrange(0x300, 0xD800),
                                         source.randrange(0xE000, 0x30000)]))
    return ["".join(source.choice(letters) if source.random() < 0.8 else strange()
                    for _ in range(source.randrange(1, 120))) for _ in range(count)]


def write(name: str, value) -> None:
    lines = json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace('},{"', '},\n{"')
    (OUT / name).write_text(lines + "\n")


def cases(tokenizer: Tokenizer, texts: list[str]) -> list[dict]:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    found = []
    for text in texts:
        with_special = tokenizer.encode(text).ids
        found.append({"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids,
                      "ids_with_special": with_special,
                      "decoded": tokenizer.decode(with_special, skip_special_tokens=False),
                      "decoded_skipping": tokenizer.decode(with_special, skip_special_tokens=True)})
    return found


def ids_of(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [tokenizer.encode(text).ids for text in texts]


def decodings(tokenizer: Tokenizer, seed: int) -> list[dict]:
    source = random.Random(seed)
    size = tokenizer.get_vocab_size()
    lists = [[source.randrange(size) for _ in range(source.randrange(1, 40))] for _ in range(40)]
    return [{"ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False),
             "decoded_skipping": tokenizer.decode(ids, skip_special_tokens=True)} for ids in lists]


def save(tokenizer: Tokenizer, name: str, config: dict) -> None:
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    content = json.loads(tokenizer.to_str())
    content["truncation"] = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    write(f"{name}.json", {"encodings": cases(tokenizer, TEXTS + random_texts(1, 30)),
                           "decodings": decodings(tokenizer, 2)})


def special(text: str) -> AddedToken:
    return AddedToken(text, special=True, normalized=False)


SPLITS = {  # the "pre_tokenizer" of the tokenizer.json of a model of each family
    "smollm": lambda: [pre_tokenizers.ByteLevel(add_prefix_space=False)],  # SmolLM2's file of transformers 5
    "gpt-2": lambda: [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "llama-bpe": lambda: pattern(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
    "qwen2": lambda: pattern(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
    "tekken": lambda: pattern(
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}"
        r"\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
}


def pattern(regex: str) -> list:
    return [pre_tokenizers.Split(Regex(regex), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


def byte_level(pre: str, trained: dict | None = None) -> Tokenizer:
    model = models.BPE(**trained, ignore_merges=pre in ("llama-bpe", "tekken")) if trained else models.BPE()
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(SPLITS[pre]())
    tokenizer.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def train_byte_level() -> dict:
    """A vocabulary with merges across digits, words and spaces, so that each way to split text shows."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\s?\S+|\s+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=620, initial_alphabet=alphabet, show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(merge) for merge in model["merges"]]}


def make_byte_level() -> None:
    trained = train_byte_level()
    tokens = sorted(trained["vocab"], key=trained["vocab"].get)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    texts = [text for text in TEXTS if len(text) < 500] + ["<tool_call>{}"] + random_texts(3, 30)
    styles = []
    for pre in SPLITS:
        tokenizer = byte_level(pre, trained)
        tokenizer.add_special_tokens([special(text) for text in specials])
        tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
        if pre in ("llama-bpe", "tekken"):
            tokenizer.post_processor = processors.TemplateProcessing(
                single="<|endoftext|> $A", pair="<|endoftext|> $A <|endoftext|> $B",
                special_tokens=[("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))])
        if pre == "gpt-2":
            save(tokenizer, "byte_bpe", {"eos_token": {"content": "<|im_end|>"}, "bos_token": None,
                                         "pad_token": "<|endoftext|>"})
        styles.append({"pre": pre, "ids": ids_of(tokenizer, texts)})
    write("gguf_gpt2.json", {
        "tokens": tokens + specials + ["<tool_call>"], "token_types": [1] * len(tokens) + [3] * 3 + [4],
        "merges": [" ".join(merge) for merge in trained["merges"]], "bos": len(tokens), "eos": len(tokens) + 2,
        "texts": texts, "styles": styles})


def train_sentence_piece(kind: str) -> sentencepiece.SentencePieceProcessor:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line.replace("\n", " ") for line in CORPUS), model_writer=model, model_type=kind,
        vocab_size=480, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        character_coverage=0.98, user_defined_symbols=["<|user|>"], hard_vocab_limit=False, minloglevel=2)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def piece_types(model) -> list[int]:
    kinds = ((model.is_unknown, 2), (model.is_control, 3), (model.is_unused, 5), (model.is_byte, 6))
    return [next((kind for test, kind in kinds if test(i)), 4 if model.id_to_piece(i) == "<|user|>" else 1)
            for i in range(model.get_piece_size())]


def add_piece_specials(tokenizer: Tokenizer) -> None:
    tokenizer.add_special_tokens([special(text) for text in ("<unk>", "<s>", "</s>")])
    tokenizer.add_tokens([AddedToken("<|user|>", special=False, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])


def make_spm_bpe() -> None:
    model = train_sentence_piece("bpe")
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    scores = [model.get_score(i) for i in range(len(pieces))]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = generate_merges(vocab, dict(zip(pieces, scores)))
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    add_piece_specials(tokenizer)
    save(tokenizer, "spm_bpe", {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"})
    texts = [text for text in TEXTS if len(text) < 500] + random_texts(4, 60)
    plain = [text for text in texts if "\0" not in text and not any(name in text for name in ("<s>", "<|user|>", "▁"))]
    for text in plain:  # the engine that such models were trained with agrees
        assert model.encode(text) == tokenizer.encode(text, add_special_tokens=False).ids, text
    write("gguf_llama.json", {"tokens": pieces, "scores": scores, "token_types": piece_types(model), "bos": 1,
                              "eos": 2, "unk": 0, "texts": texts, "ids": ids_of(tokenizer, texts)})


def make_unigram() -> None:
    model = train_sentence_piece("unigram")
    vocab = [(model.id_to_piece(i), model.get_score(i)) for i in range(model.get_piece_size())]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    add_piece_specials(tokenizer)
    save(tokenizer, "unigram", {"bos_token": "<s>", "eos_token": "</s>"})


def make_chat(gguf_path: str | None) -> None:
    done = []
    for case in CASES:
        variables = {"tools": None, **case["special_tokens"], **case.get("variables", {})}
        rendered, _ = render_jinja_template([case["messages"]], chat_template=case["template"],
                                            add_generation_prompt=case["add_generation_prompt"], **variables)
        done.append({**case, "rendered": rendered[0]})
    golden = {"cases": done}
    if gguf_path:
        import gguf
        template = gguf.GGUFReader(gguf_path).fields["tokenizer.chat_template"].contents()
        messages = [{"role": "user", "content": "Hi, is 1 < 2?"}, {"role": "assistant", "content": " Yes.\n"}]
        rendered, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True,
                                            bos_token="<|im_start|>", eos_token="<|im_end|>")
        golden["smollm2"] = {"messages": messages, "rendered": rendered[0]}
    write("chat.json", golden)


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    make_byte_level()
    make_spm_bpe()
    make_unigram()
    smollm2 = Tokenizer.from_file(str(pathlib.Path(sys.argv[1]) / "tokenizer.json"))
    write("smollm2.json", {"encodings": cases(smollm2, TEXTS + random_texts(5, 60)), "decodings": decodings(smollm2, 6)})
    make_chat(sys.argv[2] if len(sys.argv) > 2 else None)


if __name__ == "__main__":
    main()
