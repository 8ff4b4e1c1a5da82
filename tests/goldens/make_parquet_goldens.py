#!/usr/bin/env python3
"""Writes tests/goldens/parquet/: small Parquet files of every codec, page version and type of text.

usage: make_parquet_goldens.py   (needs pyarrow 26.0.1: python3 -m venv V && V/bin/pip install pyarrow==26.0.1)
documents.json holds what each good file must give: its documents, null for a row without one.
"""
import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = pathlib.Path(__file__).parent / "parquet"
TEXTS = ["Überall ist Text.", None, "", "one line\nand another", "日本語 😀"] + [f"Row {i}: {'word ' * (i % 7)}" for i in range(20)]
CHATS = [
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there."}],
    None,
    [],
    [{"role": "system", "content": None}],
    [{"role": "user", "content": f"Question {i}"} for i in range(5)],
]
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("weight", pa.float64())]))


def write(expected, name, table, documents, **options):
    pq.write_table(table, FOLDER / f"{name}.parquet", store_schema=False, **options)
    if documents is not None:
        expected[name] = documents


def main():
    FOLDER.mkdir(exist_ok=True)
    expected = {}
    texts = [None if text is None else {"text": text} for text in TEXTS]
    chats = [{"messages": chat} if chat else None for chat in CHATS]
    table = pa.table({"id": list(range(len(TEXTS))), "text": TEXTS})
    for codec in ["none", "snappy", "gzip", "brotli", "zstd", "lz4"]:
        for version in ["1.0", "2.0"]:
            write(expected, f"text_{codec}_v{version[0]}", table, texts, compression=codec, data_page_version=version)
    plain = dict(compression="zstd", use_dictionary=False)
    write(expected, "text_plain", table, texts, row_group_size=7, data_page_size=64, **plain)
    large = pa.table({"text": pa.array(TEXTS, pa.large_string())})
    write(expected, "text_large", large, texts, row_group_size=16)
    write(expected, "text_dictionary", pa.table({"text": pa.array(TEXTS).dictionary_encode()}), texts)
    schema = pa.schema([pa.field("text", pa.string(), nullable=False)])
    some = [text for text in TEXTS if text is not None]
    write(expected, "text_required", pa.table({"text": some}, schema=schema), [{"text": text} for text in some])
    chat_table = pa.table({"messages": pa.array(CHATS * 3, MESSAGES), "source": ["a"] * (3 * len(CHATS))})
    write(expected, "messages_snappy", chat_table, chats * 3, compression="snappy", row_group_size=4)
    write(expected, "messages_plain", chat_table, chats * 3, data_page_version="2.0", **plain)
    write(expected, "no_rows", pa.table({"text": pa.array([], pa.string())}), [])
    write(expected, "bad_no_column", pa.table({"label": [1, 2]}), None)
    write(expected, "bad_type", pa.table({"text": [1, 2]}), None)
    write(expected, "bad_utf8", pa.table({"text": pa.array([b"good", b"b\xff"], pa.binary())}), None)
    delta = dict(use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"})
    write(expected, "bad_encoding", pa.table({"text": some}), None, **delta)
    (FOLDER / "documents.json").write_text(json.dumps(expected, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
